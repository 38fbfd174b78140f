"""The finished study of blockwise students: a results folder's cells by what they are."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from ktbench.engine.inline import Inline
from ktbench.matrix import load, plan
from ktbench.records import Assembly, Checkpoint, KtbenchError, Measurement, Result
from ktbench.results import ResultsFolder
from ktbench.runner import Silent
from ktbench.runner import run as run_plan

MATRIX = Path(__file__).resolve().parent.parent / "matrices" / "blockwise-small.yaml"
TEACHER = "teacher"
"""The student whose blocks are all the teacher's own."""


@dataclass(frozen=True)
class Row:
    """A trained cell that began from a teacher's blocks."""

    student: str
    """The replacement of its blocks, or `TEACHER`."""
    method: str
    seed: int
    start: Assembly
    checkpoint: Checkpoint
    result: Result


@dataclass(frozen=True)
class Study:
    """The blockwise students of a results folder, with their measurements."""

    rows: tuple[Row, ...]
    measurements: Mapping[tuple[str, str], Measurement]
    """Measurements of one device, by graph and export."""


@contextmanager
def results_folder() -> Iterator[Path]:
    """The folder that `$KTBENCH_RESULTS` names, else the matrix run into one that goes again."""
    named = os.environ.get("KTBENCH_RESULTS")
    if named:
        yield Path(named)
        return
    with TemporaryDirectory(prefix="ktbench-") as place:
        done = run_plan(
            plan(load(MATRIX)),
            matrix_text=MATRIX.read_text(encoding="utf-8"),
            folder=Path(place, "results"),
            engine=Inline(),
            watcher=Silent(),
            write_report=None,
        )
        if not done.ok:
            raise KtbenchError(f"the matrix did not finish: {done.failed or done.unmeasured}")
        yield Path(place, "results")


def study(folder: Path) -> Study:
    """Every blockwise cell that is trained; KtbenchError where there is none."""
    results = ResultsFolder(folder)
    rows = [row for result in results.results() if (row := _row(result)) is not None]
    if not rows:
        raise KtbenchError(
            f"{folder}: no finished blockwise student: run {MATRIX.name}, or unset KTBENCH_RESULTS"
        )
    measured = {(m.graph_key, m.export.label): m for m in results.measurements() if m.threads == 1}
    return Study(tuple(sorted(rows, key=lambda r: (r.student, r.method, r.seed))), measured)


def _row(result: Result) -> Row | None:
    start, checkpoint = result.start, result.checkpoint
    if start is None or checkpoint is None:
        return None
    kinds = {block.replacement for block in start.blocks}
    student = " and ".join(sorted(kinds)) or TEACHER
    cell = result.cell
    return Row(student, cell.method.label, cell.seed, start, checkpoint, result)
