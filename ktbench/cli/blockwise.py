"""`ktbench blockwise ...`: networks chosen from the blocks that a results folder has trained."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ktbench.records import BlockSearch, DeviceSpec, Price

app = typer.Typer(no_args_is_help=True, help="Choose among a teacher's trained blocks.")


@app.callback()
def _group() -> None:
    """So that its one command keeps its name."""


@app.command()
def search(
    folder: Annotated[Path, typer.Argument(metavar="RESULTS", show_default=False)],
    by: Annotated[
        str, typer.Option(metavar="parameters|bytes|latency", help="What a budget is of.")
    ] = "parameters",
    budgets: Annotated[
        str | None,
        typer.Option(metavar="0.3,0.5,...", help="Shares of the teacher's cost, with commas."),
    ] = None,
    points: Annotated[
        int, typer.Option(min=1, metavar="N", help="Budgets, evenly spread, when none is given.")
    ] = 8,
    device: Annotated[
        str, typer.Option(metavar="PROFILE", help="Where latencies are measured.")
    ] = "local",
    host: Annotated[
        str | None, typer.Option(metavar="HOST", help="The device, of the SSH configuration.")
    ] = None,
    python: Annotated[
        str, typer.Option(metavar="PYTHON", help="Interpreter on the device with the runtime.")
    ] = "python3",
    teacher: Annotated[
        str | None, typer.Option(metavar="NAME", help="Whose blocks, where there are several.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="The matrix to write (default: matrix.search.yaml beside the old)"
        ),
    ] = None,
) -> None:
    """Choose one replacement per block, or the teacher's own, under budgets; train nothing.

    Writes what it found to the folder, and a matrix that finishes and measures it.
    """
    from rich.console import Console

    from ktbench.records import printable
    from ktbench.results import ResultsFolder
    from ktbench.runner.blockwise.finishing_matrix import write_matrix
    from ktbench.runner.blockwise.search import Wish, search

    results = ResultsFolder(folder)
    wish = Wish(
        by=_price(by),
        device=_device(device, host, python),
        budgets=_shares(budgets),
        points=points,
        teacher=teacher,
    )
    console = Console(stderr=True)
    with console.status("looking at the blocks") as status:
        found = search(results, wish, lambda text: status.update(text))
    path = write_matrix(found, results, output)
    _show(found)
    print(printable(f"wrote {path}; next: ktbench run {path} --results {folder}"))


def _price(by: str) -> Price:
    from typing import get_args

    from ktbench.records import KtbenchError, Price

    for known in get_args(Price):
        if by == known:
            found: Price = known
            return found
    raise KtbenchError(f"--by {by}: must be {', '.join(get_args(Price))}")


def _shares(budgets: str | None) -> tuple[float, ...]:
    from ktbench.records import KtbenchError

    found = []
    for text in (budgets or "").split(",") if budgets is not None else ():
        try:
            share = float(text)
        except ValueError:
            share = 0.0
        if not 0 < share < float("inf"):
            raise KtbenchError(f"--budgets: {text!r} is no share of the teacher, such as 0.5")
        found.append(share)
    return tuple(found)


def _device(profile: str, host: str | None, python: str) -> DeviceSpec:
    from ktbench import catalogue
    from ktbench.records import DeviceSpec, KtbenchError

    known = catalogue.device(profile)
    if known.transport == "ssh" and host is None:
        raise KtbenchError(f"--device {profile}: name the device with --host")
    return DeviceSpec(profile=profile, name=host or profile, host=host, python=python)


def _show(found: BlockSearch) -> None:
    """A row per network."""
    from rich.console import Console
    from rich.table import Table

    from ktbench.records import printable

    columns = ["network", found.by, "of teacher's", "parameters", "validation", "test", "blocks"]
    table = Table(*columns, box=None, pad_edge=False)
    if found.teacher_ms is not None:
        table.add_column("measured, ms")
    for network in found.networks:
        replaced = Counter(network.choice).most_common()
        row: list[Any] = [
            f"{network.name} everywhere" if network.kind == "uniform" else network.name,
            _cost(found, network.cost),
            f"{network.cost / found.teacher_cost:.0%}",
            f"{network.parameters:,}",
            f"{network.validation:.1%}",
            f"{network.test:.1%}",
            ", ".join(f"{count} {label}" for label, count in replaced),
        ]
        if network.measured_ms is not None:
            row.append(f"{network.measured_ms.value:.3g}")
        table.add_row(*row)
    told = f"teacher {found.teacher}: {found.by} {_cost(found, found.teacher_cost)}"
    told += f", {found.teacher_validation:.1%} of validation, {found.teacher_test:.1%} of test"
    if found.device is not None:
        told += f"; latencies {found.origin} on {found.device.name} ({found.runtime})"
    for line in (told, *found.notes):
        print(printable(line))
    console = Console()
    # A file or a pipe has no width to keep to.
    wide = console if console.is_terminal else Console(width=200)
    wide.print(table, highlight=False)


def _cost(found: BlockSearch, value: float) -> str:
    return f"{value:.3g} ms" if found.by == "latency" else f"{value:,.0f}"
