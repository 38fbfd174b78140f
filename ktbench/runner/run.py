"""One run: a plan, a results folder, and the waves of jobs between them."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from ktbench import catalogue
from ktbench.engine.contract import Engine, Lost, Workers
from ktbench.records import Failure, KtbenchError, NumericSpec, Plan, Provenance, Result, digest_of
from ktbench.results import ResultsFolder
from ktbench.results.lock import TaskWords
from ktbench.runner.arithmetic_wave import arithmetic_wave
from ktbench.runner.cohort_wave import cohort_wave
from ktbench.runner.context import RunContext, Summary, Teachers, clocked
from ktbench.runner.data_jobs import DataDigests, DataJob, digest_data
from ktbench.runner.measurement_wave import (
    References,
    measurement_wave,
    reference_wave,
    unmeasured,
)
from ktbench.runner.preflight import refuse_unready
from ktbench.runner.progress import Watcher
from ktbench.runner.resuming import mark_again, open_tasks
from ktbench.runner.seed_race import first_seeds, with_next_seeds
from ktbench.runner.teacher_wave import teacher_wave
from ktbench.system.provenance import collect
from ktbench.train import checkpoint_interval


def run(
    plan: Plan,
    *,
    matrix_text: str,
    folder: Path,
    engine: Engine,
    watcher: Watcher,
    write_report: Callable[[Path], Path] | None,
    fresh: bool = False,
    memory: int | None = None,
    strict: bool = False,
    remarks: tuple[str, ...] = (),
    cells: Collection[str] | None = None,
) -> Summary:
    """Carry out a plan into a results folder; what is already there is not done again.

    `remarks` on the data are kept for the report. `cells`: keys of those that are carried out now,
    where not all are; the folder is of the whole plan all the same.

    A process that trains holds `memory` bytes at most; when not given, half of what is free where
    it runs, divided by the number of the engine's processes there.
    Raises KtbenchError when the run cannot begin or its folder cannot be written; `strict`: also
    when a device cannot be measured now, which is else a note and a failure at the end. A cell or a
    device that fails is a record in the folder and in the summary; the others go on.
    """
    if plan.skips and not plan.cells:
        raise KtbenchError(f"{plan.name}: no cell can be trained: {plan.skips[0].reason}")
    began = time.perf_counter()
    summary = Summary(folder)
    begun, now = first_seeds(plan), _now(plan, cells)
    whole = plan if cells is None else now
    checkpoint_interval()  # A wrong setting is told now, not once per cell.
    with clocked(summary, "data"):
        lacks = refuse_unready(whole, engine, folder, watcher, fresh=fresh, strict=strict)
        for warning in lacks:
            watcher.note(f"warning: {warning}")
        digests = _digests(plan, engine)
        tested_on, classes = _tested_on(plan, digests)
    results = ResultsFolder(folder)
    ours = collect(tested_on)
    provenance = {
        name: ours.model_copy(update={"data_digest": each.whole}) for name, each in digests.items()
    }
    with results.open(
        begun,
        matrix_text,
        ours,
        fresh=fresh,
        data_digest=tested_on,
        classes=classes,
        task=_words(plan, digests),
        remarks=remarks,
    ):
        context = RunContext(now, results, provenance, engine, watcher, summary, memory)
        _write_skips(context, ours)
        for note in results.notes:
            watcher.note(note)
        failed, references, context = _engine_waves(context, whole)
        # Once the engine is gone: a measurement wants a quiet machine.
        measurement_wave(context, references)
        results.write_failures(failed + summary.unmeasured)
        if write_report is not None:
            with clocked(summary, "report"):
                summary.report = write_report(folder)
    summary.seconds["total"] = time.perf_counter() - began
    return summary


def _now(plan: Plan, cells: Collection[str] | None) -> Plan:
    """Return the plan of what is carried out first: some cells, or every comparison's first seeds.

    Raises KtbenchError for some cells of a race of seeds, which all of them decide together.
    """
    if cells is None:
        return first_seeds(plan)
    if plan.race is not None:
        raise KtbenchError(
            f"--only: {plan.name} adds seeds where comparisons are open, which takes all cells: "
            "give seeds as a list, or leave out --only"
        )
    return plan.model_copy(update={"cells": tuple(c for c in plan.cells if c.key in cells)})


def _write_skips(context: RunContext, ours: Provenance) -> None:
    for skip in context.plan.skips:
        result = Result(cell=skip.cell, status="skipped", reason=skip.reason, provenance=ours)
        context.results.write_result(result)
    context.summary.skipped = len(context.plan.skips)


def _engine_waves(context: RunContext, whole: Plan) -> tuple[list[Failure], References, RunContext]:
    """Run all waves of the engine's jobs, and again for the seeds that a race of them adds.

    The engine is started only for work. Returns the teachers that failed, what measurements are
    compared with, and the context with every cell that was asked for.
    """
    teachers, asked, references = Teachers(), context.plan, References()
    with ExitStack() as engine:
        started: Workers | None = None

        def workers() -> Workers:
            nonlocal started
            if started is None:
                started = engine.enter_context(context.engine.at(whole, context.results.path))
                engine.enter_context(_pool_closed(whole))
            return started

        while True:
            teachers |= _one_round(context, workers)
            extended = with_next_seeds(asked, whole, context.results.path)
            there = {cell.key for cell in asked.cells}
            added = tuple(cell for cell in extended.cells if cell.key not in there)
            if not added:
                break
            words = f"{len(added)} more trainings, for comparisons that are not decided yet"
            context.watcher.note(f"seeds: {words}")
            context.results.replan(extended)
            asked = extended
            context = replace(context, plan=asked.model_copy(update={"cells": added, "skips": ()}))
        context = replace(context, plan=asked)
        if started is not None or unmeasured(asked, context.results):
            workers()
            references = reference_wave(context)
    failed = [failure for failure in teachers.values() if isinstance(failure, Failure)]
    return failed, references, context


def _one_round(context: RunContext, workers: Callable[[], Workers]) -> Teachers:
    """Run the waves that train and export the cells of the plan, where there is anything to do."""
    opened = open_tasks(context)
    todo = [*opened.tasks, *opened.restored]
    if not todo:
        return Teachers()
    at_work = workers()
    context.checked.layouts.update(arithmetic_wave(context, todo).layouts)
    teachers = teacher_wave(context, todo)
    if any(task.cell.start is not None for task in todo):
        from ktbench.runner.blockwise.wave import block_wave  # few matrices need it

        context.starts.update(block_wave(context, todo, teachers, at_work))
    cohort_wave(context, opened.tasks, teachers, at_work)
    mark_again(context, opened)
    return teachers


@contextmanager
def _pool_closed(plan: Plan) -> Iterator[None]:
    """Close a pool of teachers after the block: nothing is measured here beside one."""
    try:
        yield
    finally:
        if plan.source.source == "pool":
            from ktbench.runner.teacher_pool import close  # Ray is large, and not everybody has it

            close()


def _words(plan: Plan, digests: Mapping[str, DataDigests]) -> TaskWords | None:
    """Return the words of the task that the plan's cells learn."""
    if not plan.cells:
        return None
    data = plan.cells[0].data
    task, metric = catalogue.task(data.task), digests[data.canonical].metric
    return TaskWords(noun=task.noun, metric=metric, augmentation=task.augments)


def _digests(plan: Plan, engine: Engine) -> dict[str, DataDigests]:
    """Return the digests of every data set of a plan, by its canonical text."""
    cells = [*plan.cells, *(one.cell for one in (*plan.teachers, *plan.pretrainings))]
    specs = {cell.data.canonical: cell.data for cell in cells}
    numeric = plan.cells[0].numeric if plan.cells else NumericSpec()
    job = DataJob(tuple(specs.values()), Path(plan.base), numeric)
    digests = engine.ahead(digest_data, job)
    if isinstance(digests, Lost):
        raise KtbenchError(f"data: {digests.reason}")
    return digests


def _tested_on(plan: Plan, digests: Mapping[str, DataDigests]) -> tuple[str, int | None]:
    """Return the digest of what all cells are tested on, and its classes.

    Where data sets differ in the number of classes, it is None. A folder's results must be tested
    on the same samples; what a cell learnt from is its own, so that a teacher or a cell with more
    training samples can be added to a matrix.
    """
    tested_on = digest_of(sorted({each.test for each in digests.values()}))
    classes = {digests[cell.data.canonical].classes for cell in plan.cells}
    return tested_on, classes.pop() if len(classes) == 1 else None
