"""`ktbench blockwise ...`: networks chosen from the blocks that a results folder has trained."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ktbench.cli.options import Python

if TYPE_CHECKING:
    from ktbench.records import BlockSearch, DeviceSpec, Price

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Choose replacements for a teacher's blocks."
)


By = Annotated[str, typer.Option(metavar="parameters|bytes|latency", help="Unit of the budgets.")]
Budgets = Annotated[
    str | None,
    typer.Option(
        metavar="0.3,0.5,...", help="Budgets: shares of the teacher's cost, separated by commas."
    ),
]
Points = Annotated[
    int,
    typer.Option(
        min=1, metavar="N", help="Number of evenly spaced budgets if --budgets is not given."
    ),
]
Profile = Annotated[
    str, typer.Option(metavar="PROFILE", help="Profile of the device that measures latencies.")
]
Host = Annotated[
    str | None, typer.Option(metavar="HOST", help="Host name or SSH alias of that device.")
]
TeacherName = Annotated[
    str | None, typer.Option(metavar="NAME", help="Teacher, if the folder has several.")
]
Output = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="Matrix to write (default: matrix.search.yaml beside the old one)"
    ),
]


@app.callback()
def _group() -> None:
    """Make a group of its one command, which Typer would otherwise run without its name."""


@app.command()
def search(
    folder: Annotated[Path, typer.Argument(metavar="RESULTS", show_default=False)],
    by: By = "parameters",
    budgets: Budgets = None,
    points: Points = 8,
    device: Profile = "local",
    host: Host = None,
    python: Python = "python3",
    teacher: TeacherName = None,
    output: Output = None,
) -> None:
    """Choose a replacement, or the teacher's own block, for each block under budgets.

    Trains nothing. Writes the result to the folder, and a matrix that fine-tunes and measures it.
    """
    from rich.console import Console

    from ktbench.records import printable
    from ktbench.results import ResultsFolder
    from ktbench.runner.blockwise.finishing_matrix import write_matrix
    from ktbench.runner.blockwise.search import SearchRequest, search

    results = ResultsFolder(folder)
    request = SearchRequest(
        by=_price(by),
        device=_device(device, host, python),
        budgets=_shares(budgets),
        points=points,
        teacher=teacher,
    )
    console = Console(stderr=True)
    with console.status("looking at the blocks") as status:
        networks = search(results, request, lambda text: status.update(text))
    path = write_matrix(networks, results, output)
    _print_search(networks)
    print(printable(f"wrote {path}; next: ktbench run {path} --results {folder}"))


def _price(by: str) -> Price:
    from typing import get_args

    from ktbench.records import KtbenchError, Price

    for name in get_args(Price):
        if by == name:
            price: Price = name
            return price
    raise KtbenchError(f"--by {by}: must be {', '.join(get_args(Price))}")


def _shares(budgets: str | None) -> tuple[float, ...]:
    from ktbench.records import KtbenchError

    shares = []
    for text in budgets.split(",") if budgets is not None else ():
        try:
            share = float(text)
        except ValueError:
            share = 0.0
        if not 0 < share < float("inf"):
            raise KtbenchError(f"--budgets: {text!r} is no share of the teacher, such as 0.5")
        shares.append(share)
    return tuple(shares)


def _device(profile: str, host: str | None, python: str) -> DeviceSpec:
    from ktbench import catalogue
    from ktbench.records import DeviceSpec, KtbenchError

    if catalogue.device(profile).transport == "ssh" and host is None:
        raise KtbenchError(f"--device {profile}: name the device with --host")
    return DeviceSpec(profile=profile, name=host or profile, host=host, python=python)


def _print_search(search: BlockSearch) -> None:
    """Print what the teacher costs and reaches, and a row per network."""
    from rich.console import Console
    from rich.table import Table

    from ktbench.records import printable

    columns = ["network", search.by, "of teacher's", "parameters", "validation", "test", "blocks"]
    table = Table(*columns, box=None, pad_edge=False)
    if search.teacher_ms is not None:
        table.add_column("measured, ms")
    for network in search.networks:
        replaced = Counter(network.choice).most_common()
        row: list[Any] = [
            f"{network.name} everywhere" if network.kind == "uniform" else network.name,
            _cost(search, network.cost),
            f"{network.cost / search.teacher_cost:.0%}",
            f"{network.parameters:,}",
            f"{network.validation:.1%}",
            f"{network.test:.1%}",
            ", ".join(f"{count} {label}" for label, count in replaced),
        ]
        if network.measured_ms is not None:
            row.append(f"{network.measured_ms.value:.3g}")
        table.add_row(*row)
    summary = f"teacher {search.teacher}: {search.by} {_cost(search, search.teacher_cost)}"
    summary += f", {search.teacher_validation:.1%} of validation, {search.teacher_test:.1%} of test"
    if search.device is not None:
        summary += f"; latencies {search.origin} on {search.device.name} ({search.runtime})"
    for line in (summary, *search.notes):
        print(printable(line))
    console = Console()
    # A file or a pipe has no width to keep to.
    wide = console if console.is_terminal else Console(width=200)
    wide.print(table, highlight=False)


def _cost(search: BlockSearch, value: float) -> str:
    return f"{value:.3g} ms" if search.by == "latency" else f"{value:,.0f}"
