"""The command line. Heavy packages are imported inside the commands that need them."""

from __future__ import annotations

import io
import signal
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ktbench.cli import blockwise, compare, devices, teacher, verify
from ktbench.system.installation import VERSION

if TYPE_CHECKING:
    from ktbench.engine.contract import Engine
    from ktbench.runner import Planned
    from ktbench.supervision import Child

app = typer.Typer(
    name="ktbench",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Which knowledge-transfer technique gives the best small network on this edge device, "
    "and at what training cost? Start with `ktbench run matrix.yaml`.",
)
devices_app = typer.Typer(
    no_args_is_help=True, help="Look at the devices of a matrix; set boards up."
)
devices.add_to(devices_app)
app.command("measure")(devices.measure)
app.add_typer(devices_app, name="devices")
app.add_typer(teacher.app, name="teacher")
app.add_typer(blockwise.app, name="blockwise")

MatrixFile = Annotated[Path, typer.Argument(metavar="MATRIX.yaml", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


class Stopped(BaseException):
    """A signal asked the program to end; passes by every `except Exception` on its way out."""

    def __init__(self, signal_number: int, advice: str = "") -> None:
        super().__init__(signal_number)
        self.exit_code = 128 + signal_number
        self.advice = advice


_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def _stop(number: int, _: Any) -> None:
    for each in _SIGNALS:  # A second signal ends the program at once.
        signal.signal(each, signal.SIG_DFL)
    raise Stopped(number)


def main() -> None:
    """Run a command; an error is one line on standard error and exit code 2."""
    _write_any_character()
    # What is ignored stays so: `nohup` lets a run outlive its terminal.
    heard = [n for n in _SIGNALS if signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, _stop) for number in heard}
    try:
        app()
    except Stopped as stopped:
        print(f"ktbench: stopped{stopped.advice}", file=sys.stderr)
        sys.exit(stopped.exit_code)
    except OSError as error:
        from ktbench.records import printable

        where = f"{error.filename}: " if error.filename else ""
        print(f"ktbench: {printable(f'{where}{error.strerror or error}')}", file=sys.stderr)
        sys.exit(2)
    except Exception as error:
        from ktbench.records import KtbenchError, printable

        if not isinstance(error, KtbenchError):
            raise
        print(printable(f"ktbench: {error}"), file=sys.stderr)
        sys.exit(2)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _write_any_character() -> None:
    """What a terminal's encoding cannot show is written as an escape, not as a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _version(asked: bool) -> None:
    if asked:
        print(f"ktbench {VERSION}")
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
        typer.Option(metavar="DIR", help="Results folder (default: results/NAME of the matrix)"),
    ] = None,
    fresh: Annotated[
        bool,
        typer.Option(
            "--fresh/--resume", help="Delete the folder's earlier results, or go on from them."
        ),
    ] = False,
    memory: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Most that a process that trains may hold, such as 4GB: it decides how many "
            "students are trained together (default: half of what is free)",
        ),
    ] = None,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict", help="Do not begin while a device of the matrix cannot be measured."
        ),
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show nothing but errors.")] = False,
    engine: Annotated[
        str,
        typer.Option(
            metavar="supervised|inline|ray",
            help="Where work runs: in a child process that is watched, in this process, or on Ray.",
        ),
    ] = "supervised",
    workers: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Trainings at a time on Ray (default: all that cores allow)"
        ),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            metavar="auto|HOST:PORT",
            help="A running Ray cluster (default: one is started on this machine)",
        ),
    ] = None,
    gpus_per_worker: Annotated[
        float | None,
        typer.Option(
            min=0.01, metavar="SHARE", help="Of a GPU, for each training on one (default: 0.25)"
        ),
    ] = None,
) -> None:
    """Train, export, measure and report everything that a matrix asks for.

    A run that was stopped goes on where it was. The exit code is 0 when no cell failed and every
    device was measured, 1 otherwise, 2 when the run could not begin or not go on (a full disk).
    """
    from ktbench.runner import memory_bytes, plan_matrix

    with closing(_child()) as child:
        where = _engine(engine, child, workers, address, gpus_per_worker)
        limit = None if memory is None else memory_bytes(memory)
        planned = plan_matrix(matrix, child=child)
        if engine != "supervised":
            child.close()
        _run(
            planned,
            results,
            where,
            limit,
            fresh=fresh,
            strict=strict,
            quiet=quiet,
        )


def _run(
    planned: Planned,
    results: Path | None,
    engine: Engine,
    memory: int | None,
    *,
    fresh: bool,
    strict: bool,
    quiet: bool,
) -> None:
    """Carry out a plan before the user's eyes; ends the command with its exit code."""
    from rich.console import Console

    from ktbench.cli.progress import Bars, Lines, announce, summarise
    from ktbench.runner import Silent
    from ktbench.runner import run as run_plan

    folder = results or Path("results", planned.plan.name)
    console = Console(stderr=True)
    watching = Silent() if quiet else Bars(console) if console.is_terminal else Lines()
    if not quiet:
        announce(planned.plan, planned.data, folder, console)
    try:
        with watching as watcher:
            summary = run_plan(
                planned.plan,
                matrix_text=planned.text,
                folder=folder,
                engine=engine,
                watcher=watcher,
                write_report=_write_report,
                fresh=fresh,
                memory=memory,
                strict=strict,
            )
    except Stopped as stopped:
        stopped.advice = "; run the same command again to go on"
        raise
    summarise(summary, console, failures_only=quiet)
    raise typer.Exit(0 if summary.ok else 1)


def _child() -> Child:
    """A child process that has begun to start: its imports take as long as this one's."""
    from ktbench.supervision import Child

    child = Child()
    child.start()
    return child


def _engine(
    name: str,
    child: Child,
    workers: int | None,
    address: str | None,
    gpus_per_worker: float | None,
) -> Engine:
    """The engine that the options ask for."""
    from ktbench.records import KtbenchError

    if name == "ray":
        from ktbench.engine.on_ray import GPUS_PER_WORKER, OnRay

        return OnRay(
            workers=workers, address=address, gpus_per_worker=gpus_per_worker or GPUS_PER_WORKER
        )
    if name not in ("supervised", "inline"):
        raise KtbenchError(f"--engine {name}: must be supervised, inline or ray")
    options = {
        "--workers": workers,
        "--address": address,
        "--gpus-per-worker": gpus_per_worker,
    }
    for option, value in options.items():
        if value is not None:
            raise KtbenchError(f"{option} needs --engine ray")
    if name == "inline":
        from ktbench.engine.inline import Inline

        return Inline()
    from ktbench.engine.supervised import Supervised

    return Supervised(child)


def _write_report(folder: Path) -> Path:
    """The report, whose packages are only loaded when there is something to report."""
    from ktbench.report import write_report

    return write_report(folder)


@app.command()
def plan(
    matrix: MatrixFile,
    as_json: AsJson = False,
    settle: Annotated[
        Path | None,
        typer.Option(
            metavar="RESULTS",
            help="Write the matrix of the seeds that would settle what this results folder of the "
            "matrix leaves undecided.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Of --settle (default: beside the matrix, NAME.settle.yaml)",
        ),
    ] = None,
    no_code: Annotated[
        bool,
        typer.Option(
            "--no-code",
            help="Import and run no code that the matrix names: such cells are shown as not "
            "looked at.",
        ),
    ] = False,
) -> None:
    """Show what a matrix would do: its cells, what is skipped and why, and an estimated cost.

    Networks and methods of your own are imported and tried; --no-code plans without.
    """
    if no_code and settle is not None:
        from ktbench.records import KtbenchError

        raise KtbenchError("--no-code: not with --settle, which looks at what was run")
    if settle is not None:
        from ktbench.cli.more_seeds import settle_matrix

        settle_matrix(matrix, settle, output, as_json=as_json)
        return
    if output is not None:
        from ktbench.records import KtbenchError

        raise KtbenchError(f"--output {output}: needs --settle RESULTS")
    with closing(_child()) as child:
        from ktbench.cli.output import plan_as_json, plan_as_text
        from ktbench.runner import missing_extras, plan_matrix

        planned = plan_matrix(matrix, child=child, estimated=True, no_code=no_code)
    if as_json:
        print(plan_as_json(planned))
    else:
        plan_as_text(planned)
    if lacking := missing_extras(planned.plan):
        print(f"warning: {lacking}", file=sys.stderr)


@app.command()
def report(folder: Annotated[Path, typer.Argument(metavar="DIR", show_default=False)]) -> None:
    """Write the report of a results folder again, finished or not."""
    from ktbench.cli.output import print_line

    print_line(str(_write_report(folder)))


compare.add_to(app)
verify.add_to(app)


# ---------------------------------------------------------------- catalogue


@app.command("list")
def list_items(
    kind: Annotated[
        str, typer.Argument(metavar="students|methods|devices|datasets", show_default=False)
    ],
    as_json: AsJson = False,
) -> None:
    """List what a matrix can name, with the settings that each takes."""
    from ktbench.cli.output import list_kind

    list_kind(kind, as_json=as_json)


@app.command()
def init(
    path: Annotated[Path, typer.Argument(metavar="MATRIX.yaml")] = Path("matrix.yaml"),
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="NAME",
            help="Copy a matrix that ships with ktbench (docs/studies.md).",
        ),
    ] = None,
) -> None:
    """Write a commented starter matrix, and the schema that editors check it with."""
    from ktbench.cli.output import print_line
    from ktbench.matrix import starter
    from ktbench.records import KtbenchError
    from ktbench.system.files import write_atomically

    if path.exists():
        raise KtbenchError(f"{path}: is there already: name another file")
    text = starter(source)
    schema_path = path.with_name("matrix.schema.json")
    write_atomically(schema_path, _schema_text())
    write_atomically(path, text)
    print_line(f"wrote {path} and {schema_path}; next: ktbench run {path}")


@app.command()
def schema() -> None:
    """Print the JSON Schema of matrix files."""
    print(_schema_text(), end="")


def _schema_text() -> str:
    import json

    from ktbench.matrix import json_schema

    return json.dumps(json_schema(), indent=2) + "\n"
