"""`ktbench teacher ...`: workers that join a pool from anywhere, and a look at who is there."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from ktbench.cli.options import AsJson
from ktbench.cli.stopped import raise_again

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Run teachers for other trainings on this machine; show pools.",
)

Address = Annotated[
    str, typer.Option(metavar="auto|HOST:PORT", help="Ray cluster that this machine is a node of.")
]
TeacherName = Annotated[
    str | None, typer.Option("--teacher", metavar="NAME", help="Serve this teacher only.")
]
Base = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR", help="Folder where the matrix's relative paths start on this machine."
    ),
]


@app.command()
def serve(
    address: Address = "auto",
    teacher: TeacherName = None,
    base: Base = None,
    workers: Annotated[int, typer.Option(min=1, help="Workers on this machine.")] = 1,
) -> None:
    """Compute teachers' outputs for every pool that a run opens, until Ctrl-C.

    Start it before or during a run, on any number of machines. Weights come from the pool; the
    data set must exist on this machine under the matrix's path.
    """
    from ktbench.teacher.pool import cluster

    cluster.connect(address)
    from ktbench.teacher.pool.serving import Server

    server = Server(teacher=teacher, base=str(base.resolve()) if base else None, workers=workers)
    print("waiting for pools; stop with Ctrl-C", flush=True)
    while True:
        for line in server.look():
            print(line, flush=True)
        raise_again()
        time.sleep(1)


@app.command()
def status(
    address: Address = "auto",
    watch: Annotated[bool, typer.Option("--watch", help="Refresh every second.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show every pool: its workers, their speed, waiting batches, and the students."""
    import json

    from rich.console import Console
    from rich.live import Live

    from ktbench.teacher.pool import cluster

    cluster.connect(address)  # one line where there is no Ray, which the next import needs
    from ktbench.teacher.pool.serving import statuses

    if as_json:
        print(json.dumps(statuses(), indent=2))
        return
    console = Console()
    if not watch:
        console.print(_tables(statuses()))
        return
    with Live(_tables(statuses()), console=console, refresh_per_second=1) as live:
        while True:
            time.sleep(1)
            raise_again()
            live.update(_tables(statuses()))


def _tables(pools: list[dict[str, Any]]) -> Any:
    """Return two tables per pool."""
    from rich.console import Group
    from rich.text import Text

    if not pools:
        return Text("no pool is open: a run with `teacher: {source: pool}` opens one")
    return Group(*(part for pool in pools for part in _pool_tables(pool)))


def _pool_tables(pool: dict[str, Any]) -> list[Any]:
    from rich.table import Table
    from rich.text import Text

    workers = Table("worker", "node", "state", "answers", "per second", "holds", "restarts")
    for w in pool["workers"]:
        rate = f"{w['per_second']:.2f}"
        cells = (w["name"], w["node"], w["state"], w["answered"], rate, w["holds"], w["restarts"])
        workers.add_row(*map(str, cells))
    students = Table("training", "batches taken", "per second", "asked for", "ready")
    for s in pool["students"]:
        rate = f"{s['per_second']:.2f}"
        students.add_row(*map(str, (s["label"], s["taken"], rate, s["open"], s["ready"])))
    head = f"teacher {pool['teacher']}, pool {pool['pool']}, open for {pool['seconds']:.0f} s"
    parts: list[Any] = [Text(head), workers, students]
    if pool["refused"]:
        parts.append(Text(f"refused: {pool['refused']}"))
    return parts
