"""The command line. Heavy packages are imported inside the commands that need them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ktbench import __version__

if TYPE_CHECKING:
    from rich.console import Console

    from ktbench.records import Plan
    from ktbench.runner import Summary

app = typer.Typer(
    name="ktbench",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Which knowledge-transfer technique gives the best small network on this edge device, "
    "and at what training cost? Start with `ktbench run matrix.yaml`.",
)
devices_app = typer.Typer(no_args_is_help=True, help="Look at the devices of a matrix.")
app.add_typer(devices_app, name="devices")

MatrixFile = Annotated[Path, typer.Argument(metavar="MATRIX.yaml", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


def main() -> None:
    """Run a command; an error is one line on standard error and exit code 2."""
    try:
        app()
    except KeyboardInterrupt:
        print("ktbench: stopped; run the same command again to go on", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(141)
    except Exception as error:
        from ktbench.records import KtbenchError

        if not isinstance(error, KtbenchError):
            raise
        print(f"ktbench: {error}", file=sys.stderr)
        sys.exit(2)


def _version(asked: bool) -> None:
    if asked:
        print(f"ktbench {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Shared options of every command."""


# ---------------------------------------------------------------- run and plan


@app.command()
def run(
    matrix: MatrixFile,
    results: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Results folder  [default: results/NAME of the matrix]"),
    ] = None,
    fresh: Annotated[
        bool,
        typer.Option(
            "--fresh/--resume", help="Delete the folder's earlier results, or go on from them."
        ),
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show nothing but errors.")] = False,
) -> None:
    """Train, export, measure and report everything that a matrix asks for.

    A run that was stopped goes on where it was. The exit code is 0 when no cell failed and every
    device was measured, 1 otherwise, 2 when the run could not begin.
    """
    from rich.console import Console

    from ktbench.engine.inline import Inline
    from ktbench.matrix import load, plan
    from ktbench.report import write_report
    from ktbench.runner import Silent
    from ktbench.runner import run as run_plan
    from ktbench.ui import Bars, Lines

    loaded = load(matrix)
    planned = plan(loaded)
    folder = results or Path("results", planned.name)
    console = Console(stderr=True)
    watching = Silent() if quiet else Bars(console) if console.is_terminal else Lines()
    if not quiet:
        _announce(planned, folder, console)
    with watching as watcher:
        summary = run_plan(
            planned,
            matrix_text=matrix.read_text(encoding="utf-8"),
            folder=folder,
            engine=Inline(),
            watcher=watcher,
            write_report=write_report,
            fresh=fresh,
        )
    if not quiet:
        _summarise(summary, console)
    raise typer.Exit(0 if summary.ok else 1)


def _announce(plan: Plan, folder: Path, console: Console) -> None:
    teachers = ", ".join(t.name for t in plan.teachers) or "no teacher"
    devices = ", ".join(d.name for d in plan.devices) or "no device"
    console.print(
        f"[bold]{plan.name}[/]: {len(plan.cells)} cells from {teachers}, "
        f"{len(plan.exports)} exports each, measured on {devices}; results in {folder}",
        highlight=False,
    )
    if plan.skips:
        console.print(f"{len(plan.skips)} impossible cells are skipped: see `ktbench plan`")


def _summarise(summary: Summary, console: Console) -> None:
    parts = [f"{summary.done} cells done"]
    parts += [f"{summary.reused} there already"] if summary.reused else []
    parts += [f"{summary.skipped} skipped"] if summary.skipped else []
    parts += [f"[red]{len(summary.failed)} failed[/]"] if summary.failed else []
    parts += [f"{summary.measured} measurements"] if summary.measured else []
    seconds = summary.seconds
    stages = ("data", "teachers", "training", "export", "measuring", "report")
    spent = ", ".join(f"{s} {seconds[s]:.0f} s" for s in stages if seconds.get(s, 0) >= 0.5)
    console.print(f"{', '.join(parts)} in {seconds['total']:.0f} s ({spent})", highlight=False)
    for result in summary.failed:
        for failure in result.failures:
            what = f" {failure.what}" if failure.what else ""
            line = f"  failed: {result.cell.label}: {failure.stage}{what}: {failure.reason}"
            console.print(line, highlight=False, markup=False)
    for failure in summary.unmeasured:
        line = f"  not measured: {failure.what}: {failure.reason}"
        console.print(line, highlight=False, markup=False)
    if summary.report is not None:
        console.print(f"report: [bold]{summary.report}[/]", highlight=False, soft_wrap=True)


@app.command()
def plan(matrix: MatrixFile, as_json: AsJson = False) -> None:
    """Show what a matrix would do: its cells, what is skipped and why, and an estimated cost."""
    from ktbench.matrix import load
    from ktbench.matrix import plan as make_plan
    from ktbench.show import plan_as_json, plan_as_text

    planned = make_plan(load(matrix))
    print(plan_as_json(planned)) if as_json else plan_as_text(planned)


@app.command()
def report(folder: Annotated[Path, typer.Argument(metavar="DIR", show_default=False)]) -> None:
    """Write the report of a results folder again, finished or not."""
    from ktbench.report import write_report

    print(write_report(folder))


# ---------------------------------------------------------------- catalogue


@app.command("list")
def list_items(
    kind: Annotated[
        str, typer.Argument(metavar="students|methods|devices|datasets", show_default=False)
    ],
    as_json: AsJson = False,
) -> None:
    """List what a matrix can name, with the settings that each takes."""
    from ktbench.show import list_kind

    list_kind(kind, as_json=as_json)


@app.command()
def init(
    path: Annotated[Path, typer.Argument(metavar="MATRIX.yaml")] = Path("matrix.yaml"),
) -> None:
    """Write a commented starter matrix, and the schema that editors check it with."""
    from ktbench.files import write_atomically
    from ktbench.matrix import starter
    from ktbench.records import KtbenchError

    if path.exists():
        raise KtbenchError(f"{path}: is there already: name another file")
    schema_path = path.with_name("matrix.schema.json")
    write_atomically(schema_path, _schema_text())
    write_atomically(path, starter())
    print(f"wrote {path} and {schema_path}; next: ktbench run {path}")


@app.command()
def schema() -> None:
    """Print the JSON Schema of matrix files."""
    print(_schema_text(), end="")


def _schema_text() -> str:
    import json

    from ktbench.matrix import json_schema

    return json.dumps(json_schema(), indent=2) + "\n"


# ---------------------------------------------------------------- devices


@devices_app.command("check")
def devices_check(
    matrix: Annotated[
        Path | None, typer.Option(metavar="MATRIX.yaml", help="Check the devices of a matrix.")
    ] = None,
    host: Annotated[
        str | None, typer.Option(metavar="HOST", help="Check a host of the SSH configuration.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what a device is, what it can run and what it is missing; this machine by default."""
    from ktbench.show import check_devices

    raise typer.Exit(check_devices(_devices(matrix, host), as_json=as_json))


def _devices(matrix: Path | None, host: str | None) -> list[Any]:
    from ktbench.matrix import load
    from ktbench.matrix import plan as make_plan
    from ktbench.records import DeviceSpec

    if matrix is not None:
        return list(make_plan(load(matrix)).devices)
    if host is not None:
        return [DeviceSpec(profile="ssh", name=host, host=host)]
    return [DeviceSpec(profile="local", name="local")]


@app.command()
def measure(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx|MODEL.tflite", show_default=False)],
    device: Annotated[
        str, typer.Option(metavar="NAME", help="`local`, or a host of the SSH configuration.")
    ] = "local",
    threads: Annotated[int, typer.Option(min=1, help="Threads of the runtime.")] = 1,
    mode: Annotated[str, typer.Option(metavar="quick|full", help="How long to time.")] = "quick",
    python: Annotated[
        str, typer.Option(metavar="PYTHON", help="Interpreter on the device with the runtime.")
    ] = "python3",
    as_json: AsJson = False,
) -> None:
    """Measure any model file on a device: load, first inference and latency percentiles."""
    from ktbench.show import measure_model

    raise typer.Exit(
        measure_model(model, device, threads=threads, mode=mode, python=python, as_json=as_json)
    )
