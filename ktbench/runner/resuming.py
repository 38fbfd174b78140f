"""What an earlier run left: what stands is used, what is lost or altered is made again."""

from __future__ import annotations

from dataclasses import dataclass, field

from ktbench.records import Cell, KtbenchError, Result
from ktbench.results import DamagedError, Problem
from ktbench.results.integrity import Fault, Integrity
from ktbench.results.raw import read_samples
from ktbench.results.storage import Stored
from ktbench.runner.cohort_jobs import CellTask
from ktbench.runner.context import Run


@dataclass
class Opened:
    """What a run has to do of its cells."""

    tasks: list[CellTask] = field(default_factory=list)
    """Cells to be trained or exported."""
    restored: list[CellTask] = field(default_factory=list)
    """Cells that stand, but whose teachers or first weights beside the results are lost."""


def open_tasks(this: Run) -> Opened:
    """The cells that still want something, with what an earlier run did of them.

    Every file of a finished cell is compared with its digest. What is not what was written is set
    aside and made again, no more than that, and the user is told.
    """
    opened = Opened()
    integrity = Integrity(this.results.path)
    for cell in this.plan.cells:
        stored = _earlier(this, cell)
        if stored is None or stored.record.checkpoint is None:
            opened.tasks.append(CellTask(cell))
            continue
        _refuse_other_data(this, stored.record)
        faults = integrity.faults(stored)
        _give_up(this, cell, faults)
        _open(this, stored.record, faults, opened)
    _open_measurements(this)
    return opened


def mark_again(this: Run, opened: Opened) -> None:
    """Write the digests of what was restored into the records of its cells."""
    for task in opened.restored:
        result = this.results.result(task.cell.key)
        if result is not None:
            this.results.write_result(result)


def _earlier(this: Run, cell: Cell) -> Stored[Result] | None:
    try:
        return this.results.stored_of(cell)
    except DamagedError as error:
        problem = Problem.of(error, this.results.path, this.results.cell(cell.key), cell.key)
        this.watcher.note(f"damaged: {problem.path} ({problem.reason}): set aside, trained again")
        this.results.set_aside(this.results.cell(cell.key))
        return None


def _give_up(this: Run, cell: Cell, faults: list[Fault]) -> None:
    """Tell of what is lost and make room for it."""
    retrained = any(fault.part in ("weights", "curves") for fault in faults)
    again = {
        "weights": "trained again",
        "curves": "trained again",
        "artifact": "exported again",
        "teacher": "restored",
        "start": "restored",
    }
    for fault in faults:
        this.watcher.note(f"lost: {fault.path} ({fault.reason}): {again[fault.part]}")
    if faults:
        rewritten = (f"weights/{cell.key}.pt", f"cells/{cell.key}.curves.parquet")
        lost = list(dict.fromkeys(fault.path for fault in faults))
        this.results.forget(cell.key, lost, rewritten if retrained else ())


def _open(this: Run, earlier: Result, faults: list[Fault], opened: Opened) -> None:
    wanted = set(this.plan.exports)
    lost = {fault.export for fault in faults if fault.part == "artifact"}
    exported = tuple(
        a for a in earlier.artifacts if a.export in wanted and a.export.label not in lost
    )
    assert earlier.checkpoint is not None
    parts = {fault.part for fault in faults}
    if parts & {"weights", "curves"}:
        was = earlier.checkpoint.digest
        opened.tasks.append(CellTask(earlier.cell, None, exported, exported_of=was))
        return
    if len(exported) == len(wanted):
        this.summary.reused += 1
    else:
        opened.tasks.append(CellTask(earlier.cell, earlier.checkpoint, exported))
    if parts & {"teacher", "start"}:
        opened.restored.append(CellTask(earlier.cell))


def _refuse_other_data(this: Run, earlier: Result) -> None:
    learnt, now = earlier.provenance.data_digest, this.provenance_of(earlier.cell).data_digest
    if learnt is not None and learnt != now:
        raise KtbenchError(
            f"{this.results.path}: {earlier.cell.label} learnt from data of digest {learnt}, which "
            f"has changed to {now}: use --fresh or another --results folder"
        )


# ---------------------------------------------------------------- measurements


def _open_measurements(this: Run) -> None:
    """Set damaged measurements aside; those without their samples are to be measured again."""
    results = this.results
    for path in results.measurement_files():
        try:
            stored = results.measurement(path)
        except DamagedError as error:
            problem = Problem.of(error, results.path, path)
            this.watcher.note(f"damaged: {problem.path} ({problem.reason}): measured again")
            results.set_aside(path)
            continue
        samples = stored.record.samples
        try:
            read_samples(results.path / samples, stored.record, stored.files.get(samples))
        except DamagedError as error:
            this.watcher.note(f"lost: {samples} ({error.reason}): measured again")
            results.measure_again(path, samples)
