"""`ktbench run`."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ktbench.cli import report
from ktbench.cli.options import MatrixFile
from ktbench.cli.stopped import Stopped

if TYPE_CHECKING:
    from ktbench.engine.contract import Engine
    from ktbench.runner import Planned

Results = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Results folder (default: results/NAME of the matrix)"),
]
Only = Annotated[
    str | None,
    typer.Option(
        metavar="WORDS",
        help="Run these cells only: names or patterns of students, methods and teachers, such as "
        "'kd,resnet8'. Words of one kind are alternatives; kinds have to agree.",
    ),
]
Fresh = Annotated[
    bool,
    typer.Option(
        "--fresh/--resume", help="Delete the folder's earlier results, or continue from them."
    ),
]
Memory = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        help="Memory limit of each training process, such as 4GB: it decides how many students "
        "are trained together (default: half of the free memory)",
    ),
]
Strict = Annotated[
    bool,
    typer.Option("--strict", help="Do not begin if a device of the matrix cannot be measured."),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show errors only.")]
EngineName = Annotated[
    str,
    typer.Option(
        metavar="supervised|inline|ray",
        help="Where jobs run: in a supervised child process, in this process, or on Ray.",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        min=1, metavar="N", help="Concurrent trainings on Ray (default: as many as the cores allow)"
    ),
]
Address = Annotated[
    str | None,
    typer.Option(
        metavar="auto|HOST:PORT",
        help="A running Ray cluster (default: one is started on this machine)",
    ),
]
GpusPerWorker = Annotated[
    float | None,
    typer.Option(
        min=0.01, metavar="SHARE", help="Share of a GPU for each training on Ray (default: 0.25)"
    ),
]


@dataclass(frozen=True)
class _RunOptions:
    """Options of carrying out a plan."""

    results: Path | None
    only: str
    memory: str | None
    fresh: bool
    strict: bool
    quiet: bool


def run(
    matrix: MatrixFile,
    results: Results = None,
    only: Only = None,
    fresh: Fresh = False,
    memory: Memory = None,
    strict: Strict = False,
    quiet: Quiet = False,
    engine: EngineName = "supervised",
    workers: Workers = None,
    address: Address = None,
    gpus_per_worker: GpusPerWorker = None,
) -> None:
    """Train, export, measure and report everything that a matrix asks for.

    Resumes a stopped run. The exit code is 0 if no cell failed and every device was measured, 1
    otherwise, and 2 if the run could not begin or continue (for example, because the disk is full).
    """
    from ktbench.supervision import Child

    with closing(Child.started()) as child:
        from ktbench.engine import engine_of
        from ktbench.runner import memory_bytes, plan_matrix

        where = engine_of(engine, child, workers, address, gpus_per_worker)
        if memory is not None:
            memory_bytes(memory)  # A wrong size is told before a matrix is planned.
        planned = plan_matrix(matrix, child=child)
        if engine != "supervised":
            child.close()
        _carry_out(planned, where, _RunOptions(results, only or "", memory, fresh, strict, quiet))


def _carry_out(planned: Planned, engine: Engine, options: _RunOptions) -> None:
    """Run a plan before the user's eyes; ends the command with its exit code."""
    from rich.console import Console

    from ktbench.api.running import carry_out, default_folder
    from ktbench.cli.progress import Bars, Lines, announce, summarise
    from ktbench.runner import Silent, only_cells

    folder = options.results or default_folder(planned)
    console = Console(stderr=True)
    watching = Silent() if options.quiet else Bars(console) if console.is_terminal else Lines()
    chosen = only_cells(planned.plan, options.only) if options.only else None
    if not options.quiet:
        announce(planned.plan, planned.data, folder, console, chosen)
    try:
        with watching as watcher:
            summary = carry_out(
                planned,
                engine,
                folder=folder,
                watcher=watcher,
                write_report=report.write_report,
                only=options.only,
                fresh=options.fresh,
                memory=options.memory,
                strict=options.strict,
            )
    except Stopped as stopped:
        stopped.advice = "; run the same command again to resume"
        raise
    summarise(summary, console, failures_only=options.quiet)
    raise typer.Exit(0 if summary.ok else 1)
