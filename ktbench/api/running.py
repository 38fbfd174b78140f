"""Planning and running a matrix from Python: a file, a dictionary, or what was planned before."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

from ktbench.api.results import Results, load_results
from ktbench.engine import engine_of
from ktbench.engine.contract import Engine
from ktbench.matrix import MatrixText
from ktbench.records import KtbenchError
from ktbench.runner import Planned, Silent, Summary, Watcher, memory_bytes, only_cells, plan_matrix
from ktbench.runner import run as run_plan
from ktbench.supervision import Child

Matrix = str | Path | Mapping[str, Any]
"""A matrix: the path of its file, or what such a file holds as a dictionary."""


def plan(matrix: Matrix, *, base: Path | str = ".", run_code: bool = True) -> Planned:
    """Plan a matrix: its cells, its skips with their reasons, its data and the estimated cost.

    Relative paths of a dictionary start from `base`. Own networks and methods are imported and
    tried in another process; with `run_code=False` they are not, and their cells are skips. Raises
    KtbenchError with every problem of the matrix.
    """
    with closing(Child.started()) as child:
        return plan_matrix(_source(matrix, base), child=child, estimated=True, no_code=not run_code)


def run(
    matrix: Matrix | Planned,
    *,
    folder: Path | str | None = None,
    base: Path | str = ".",
    on: Literal["supervised", "inline", "ray"] = "supervised",
    workers: int | None = None,
    address: str | None = None,
    only: str | Sequence[str] = (),
    fresh: bool = False,
    memory: str | None = None,
    strict: bool = False,
    report: bool = True,
    watcher: Watcher | None = None,
) -> Results:
    """Train, export, measure and report everything that a matrix asks for; resumes where it was.

    `folder` is the results folder, by default `results/NAME`. Relative paths of a dictionary start
    from `base`. `on`: where trainings run: in a supervised child process, in this process, or on
    Ray (`workers`, `address`). `only`, `fresh`, `memory` and `strict` are the options of
    `ktbench run`. `watcher` is told of the progress. A cell or a device that fails does not raise:
    `Results.cells` has its reason. Raises KtbenchError where the run cannot begin or go on.
    """
    with closing(Child.started()) as child:
        engine = engine_of(on, child, workers, address)
        planned = matrix
        if not isinstance(planned, Planned):
            planned = plan_matrix(_source(planned, base), child=child)
        if on != "supervised":
            child.close()
        summary = carry_out(
            planned,
            engine,
            folder=None if folder is None else Path(folder),
            watcher=watcher or Silent(),
            write_report=_report if report else None,
            only=only,
            fresh=fresh,
            memory=memory,
            strict=strict,
        )
    return load_results(summary.folder)


def carry_out(
    planned: Planned,
    engine: Engine,
    *,
    folder: Path | None,
    watcher: Watcher,
    write_report: Callable[[Path], Path] | None,
    only: str | Sequence[str] = (),
    fresh: bool = False,
    memory: str | None = None,
    strict: bool = False,
) -> Summary:
    """Run what was planned on an engine; return counts, failures and seconds."""
    return run_plan(
        planned.plan,
        matrix_text=planned.text,
        folder=folder or default_folder(planned),
        engine=engine,
        watcher=watcher,
        write_report=write_report,
        fresh=fresh,
        memory=None if memory is None else memory_bytes(memory),
        strict=strict,
        remarks=planned.remarks,
        cells=only_cells(planned.plan, only) if only else None,
    )


def default_folder(planned: Planned) -> Path:
    """Return the results folder of a matrix that is given none."""
    return Path("results", planned.plan.name)


def _report(folder: Path) -> Path:
    from ktbench.report import write_report

    return write_report(folder)


def _source(matrix: Matrix, base: Path | str) -> Path | MatrixText:
    if not isinstance(matrix, Mapping):
        return Path(matrix)
    try:
        text = json.dumps(dict(matrix), indent=1, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise KtbenchError(
            f"the matrix holds what no matrix file can hold ({error}): give texts, finite numbers, "
            "lists and dictionaries"
        ) from error
    return MatrixText(text + "\n", file="matrix", base=str(Path(base).absolute()))
