"""Resumes an earlier run: whole results are used, lost or altered ones are made again."""

from __future__ import annotations

from dataclasses import dataclass, field

from ktbench.records import Cell, KtbenchError, Result
from ktbench.results import DamagedError, Problem
from ktbench.results.integrity import Fault, Integrity
from ktbench.results.membership import behind
from ktbench.results.raw import read_samples
from ktbench.results.storage import Stored
from ktbench.runner.cohort_jobs import CellTask
from ktbench.runner.context import RunContext


@dataclass
class Opened:
    """Cells of a run that still need work."""

    tasks: list[CellTask] = field(default_factory=list)
    """Cells to be trained or exported."""
    restored: list[CellTask] = field(default_factory=list)
    """Cells that stand, but whose teachers or first weights beside the results are lost."""


def open_tasks(context: RunContext) -> Opened:
    """Return the cells that still need work, with what an earlier run did of them.

    Every file of a finished cell is compared with its digest. What is not what was written is set
    aside and made again, no more than that, and the user is told.
    """
    opened = Opened()
    integrity = Integrity(context.results.path, context.results.lock())
    for cell in context.plan.cells:
        stored = _earlier(context, cell)
        if stored is None or stored.record.checkpoint is None:
            opened.tasks.append(CellTask(cell))
            continue
        _refuse_other_data(context, stored.record)
        faults = integrity.faults(stored)
        _note_lost(context, cell, faults)
        _open(context, cell, stored.record, faults, opened)
    _open_measurements(context)
    return opened


def mark_again(context: RunContext, opened: Opened) -> None:
    """Write the digests of what was restored into the records of its cells."""
    for task in opened.restored:
        result = context.results.result(task.cell.key)
        if result is not None:
            context.results.write_result(result)


def _earlier(context: RunContext, cell: Cell) -> Stored[Result] | None:
    try:
        return context.results.stored_of(cell)
    except DamagedError as error:
        problem = Problem.of(error, context.results.path, context.results.cell(cell.key), cell.key)
        context.watcher.note(
            f"damaged: {problem.path} ({problem.reason}): set aside, trained again"
        )
        context.results.set_aside(context.results.cell(cell.key))
        return None


def _note_lost(context: RunContext, cell: Cell, faults: list[Fault]) -> None:
    """Note what is lost, and forget it where it will be made again."""
    retrained = any(fault.part in ("weights", "curves") for fault in faults)
    again = {
        "weights": "trained again",
        "curves": "trained again",
        "artifact": "exported again",
        "teacher": "restored",
        "start": "restored",
    }
    for fault in faults:
        context.watcher.note(f"lost: {fault.path} ({fault.reason}): {again[fault.part]}")
    if faults:
        rewritten = (f"weights/{cell.key}.pt", f"cells/{cell.key}.curves.parquet")
        lost = list(dict.fromkeys(fault.path for fault in faults))
        context.results.forget(cell.key, lost, rewritten if retrained else ())


def _open(
    context: RunContext, cell: Cell, earlier: Result, faults: list[Fault], opened: Opened
) -> None:
    """Add the tasks of a cell, as it is planned now: its files may have moved since."""
    exports = set(context.plan.exports)
    lost = {fault.export for fault in faults if fault.part == "artifact"}
    exported = tuple(
        a for a in earlier.artifacts if a.export in exports and a.export.label not in lost
    )
    assert earlier.checkpoint is not None
    parts = {fault.part for fault in faults}
    if parts & {"weights", "curves"}:
        digest = earlier.checkpoint.digest
        opened.tasks.append(CellTask(cell, None, exported, exported_of=digest))
        return
    if len(exported) == len(exports):
        context.summary.reused += 1
    else:
        opened.tasks.append(CellTask(cell, earlier.checkpoint, exported))
    if parts & {"teacher", "start"}:
        opened.restored.append(CellTask(cell))


def _refuse_other_data(context: RunContext, earlier: Result) -> None:
    """Refuse a cell of which the data, its teachers' or that of its start has changed since."""
    trained = [(earlier.cell.label, earlier.cell, earlier.provenance.data_digest)]
    trained += [
        (f"{one.name}, behind {earlier.cell.label},", one.cell, checkpoint.data_digest)
        for one, checkpoint in behind(earlier)
        if one.checkpoint is None  # else nothing was learnt here
    ]
    for what, cell, learnt in trained:
        provenance = context.provenance.get(cell.data.canonical)
        if learnt is None or provenance is None or learnt == provenance.data_digest:
            continue
        raise KtbenchError(
            f"{context.results.path}: {what} learnt from data of digest {learnt}, which has "
            f"changed to {provenance.data_digest}: use --fresh or another --results folder"
        )


# ---------------------------------------------------------------- measurements


def _open_measurements(context: RunContext) -> None:
    """Set damaged measurements aside; those without their samples are to be measured again."""
    results = context.results
    for path in results.measurement_files():
        try:
            stored = results.measurement(path)
        except DamagedError as error:
            problem = Problem.of(error, results.path, path)
            context.watcher.note(f"damaged: {problem.path} ({problem.reason}): measured again")
            results.set_aside(path)
            continue
        samples = stored.record.samples
        try:
            read_samples(results.path / samples, stored.record, stored.files.get(samples))
        except DamagedError as error:
            context.watcher.note(f"lost: {samples} ({error.reason}): measured again")
            results.measure_again(path, samples)
