"""The wave of cohorts: students trained together, exported, and written as results."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from ktbench.engine.contract import Lost, Workers
from ktbench.networks.layout import Layout
from ktbench.records import Assembly, Failure, Provenance, Result
from ktbench.runner.cohort_jobs import (
    CellOutcome,
    CellTask,
    CohortJob,
    narrowed,
    saved_work,
    stage_of,
    train_and_export,
)
from ktbench.runner.context import (
    RunContext,
    Teachers,
    pretrained_of,
    pretraining_of,
    teachers_of,
    warmup_of,
)
from ktbench.runner.narrowing import Narrowing, run_narrowing
from ktbench.runner.progress import Shares
from ktbench.runner.trained_teacher import TrainedTeacher

COHORT = 32
"""Most cells of one job. How many of them share a batch is for the memory to say, where they are
trained; a job's results come when all of it is done."""
PER_WORKER = 2
"""Least jobs per worker, where there are cells enough: so that all end at about the same time."""


def cohort_wave(
    context: RunContext, tasks: Sequence[CellTask], teachers: Teachers, workers: Workers
) -> None:
    """Train and export every task's cell, and write its result."""
    jobs = _jobs(context, tasks, teachers, workers)
    if not jobs:
        return
    context.watcher.begin("students", sum(job.units for job in jobs))
    shares = Shares(context.watcher)

    def tell(job: CohortJob, share: float) -> None:
        shares.tell(job, job.units, share, job.label)

    def again(job: CohortJob, lost: Lost) -> list[CohortJob]:
        shares.drop(job)
        smaller_jobs = narrowed(job, deaths.again([t.cell.key for t in job.tasks], lost), lost)
        if smaller_jobs:
            labels = {task.cell.key: task.cell.label for task in job.tasks}
            label = labels.get(lost.mark.subject, job.label)
            then = (
                "it runs again alone" if len(job.tasks) == 1 else "the others continue without it"
            )
            context.watcher.note(f"ended: {label}: {lost.reason}; {then}")
        return smaller_jobs

    deaths = Narrowing(lambda key: saved_work(context.results.work(key)))
    remarked: set[str] = set()
    for job, outcome in run_narrowing(context.engine, train_and_export, jobs, tell, again):
        shares.finish(job, job.units)
        if isinstance(outcome, Lost):
            _write_lost(context, job, outcome)
            continue
        for stage, seconds in outcome.seconds.items():
            context.summary.seconds[stage] += seconds
        for note in outcome.notes:
            context.watcher.note(note)
        for cell_outcome in outcome.cells:
            made = _result(context, cell_outcome, job.taught_by, outcome.provenance)
            result = _with_origin(context, made, teachers)
            _write(context, result)
            _note_failure(context, result)
            _note_remarks(context, result, remarked)
    context.watcher.end()


# ---------------------------------------------------------------- jobs


def _jobs(
    context: RunContext, tasks: Sequence[CellTask], teachers: Teachers, workers: Workers
) -> list[CohortJob]:
    """Return the jobs of all tasks that can start; the others have failed."""
    jobs = []
    for cohort in cohorts(_startable(context, tasks, teachers), workers.all):
        first = cohort[0]
        taught_by = teachers_of(first.cell, teachers) if first.trained is None else ()
        if isinstance(taught_by, Failure):
            for task in cohort:
                _write_failed(context, task, taught_by)
            continue
        job = CohortJob(
            tasks=tuple(cohort),
            taught_by=taught_by,
            exports=context.plan.exports,
            base=context.base,
            root=context.root,
            source=context.plan.source,
            memory=context.memory,
            workers=workers.per_machine,
            data_digest=context.provenance_of(first.cell).data_digest,
            starts=_first_weights(context, cohort, teachers),
            layouts=_layouts(context, cohort),
            warmups=_warmups(cohort, teachers),
        )
        jobs.append(job)
    return jobs


def cohorts(tasks: Sequence[CellTask], workers: int = 1) -> list[list[CellTask]]:
    """Group tasks that share teacher, data order, budget and numeric settings, in like sizes.

    A cohort has COHORT tasks at most, and so few that each worker gets PER_WORKER of them where
    there are enough. Cells that are only to be exported again stay by themselves: they need no
    teacher.
    """
    groups: dict[tuple[object, ...], list[CellTask]] = {}
    for task in tasks:
        cell = task.cell
        teacher = cell.teacher.canonical if cell.teacher is not None else ""
        shared = (cell.data.canonical, teacher, cell.train.canonical, cell.numeric.canonical)
        groups.setdefault((*shared, cell.seed, task.trained is None), []).append(task)
    most = COHORT if workers == 1 else min(COHORT, len(tasks) // (PER_WORKER * workers) or 1)
    return [part for group in groups.values() for part in _parts(group, most)]


def _parts(group: list[CellTask], most: int) -> list[list[CellTask]]:
    """Split a group into as few parts as may be, whose sizes differ by one at most."""
    count = math.ceil(len(group) / most)
    bounds = [len(group) * i // count for i in range(count + 1)]
    return [group[a:b] for a, b in pairwise(bounds)]


def _startable(
    context: RunContext, tasks: Sequence[CellTask], teachers: Teachers
) -> list[CellTask]:
    """Return the tasks but for those that have failed already.

    Their first weights or warm-up could not be made, or their arithmetic is wrong in every layout.
    """
    startable = []
    for task in tasks:
        before = (
            (warmup_of(task.cell, teachers), pretrained_of(task.cell, teachers))
            if task.trained is None
            else ()
        )
        reasons = (context.starts.get(task.cell.key), context.checked.of(task.cell), *before)
        failures = [reason for reason in reasons if isinstance(reason, Failure)]
        if failures and task.trained is None:
            _write_failed(context, task, failures[0])
        else:
            startable.append(task)
    return startable


def _layouts(context: RunContext, tasks: Sequence[CellTask]) -> dict[str, Layout]:
    """Return the layout in which each cell's arithmetic was right, by the cell's key."""
    layouts = {task.cell.key: context.checked.of(task.cell) for task in tasks}
    return {key: layout for key, layout in layouts.items() if isinstance(layout, Layout)}


def _first_weights(
    context: RunContext, tasks: Sequence[CellTask], teachers: Teachers
) -> dict[str, Path]:
    """Return the file of each cell's first weights by the cell's key; fresh ones have none."""
    files = {}
    for task in tasks:
        start = context.starts.get(task.cell.key)
        before = pretrained_of(task.cell, teachers) if task.trained is None else None
        if isinstance(start, Assembly):
            files[task.cell.key] = context.root / start.path
        elif isinstance(before, TrainedTeacher):
            files[task.cell.key] = before.weights
    return files


def _warmups(tasks: Sequence[CellTask], teachers: Teachers) -> dict[str, TrainedTeacher]:
    """Return the student that each cell's pairs are chosen with, by the cell's key."""
    warmups = {t.cell.key: warmup_of(t.cell, teachers) for t in tasks if t.trained is None}
    return {key: one for key, one in warmups.items() if isinstance(one, TrainedTeacher)}


# ---------------------------------------------------------------- results


def _write_failed(context: RunContext, task: CellTask, failure: Failure) -> None:
    """Write a cell that could not begin; its failure has been told already."""
    _write(context, _result(context, CellOutcome(task.cell, None, failures=(failure,))))


def _write_lost(context: RunContext, job: CohortJob, lost: Lost) -> None:
    """Write every cell of the job as failed; its saved work stays for the next run."""
    failure = Failure(stage=stage_of(lost.mark), reason=lost.reason)
    for task in job.tasks:
        outcome = CellOutcome(task.cell, task.trained, task.exported, (failure,))
        result = _result(context, outcome, job.taught_by)
        _write(context, result, drop_work=False)
        _note_failure(context, result)


def _result(
    context: RunContext,
    outcome: CellOutcome,
    taught_by: Sequence[TrainedTeacher] = (),
    provenance: Provenance | None = None,
) -> Result:
    """Return a cell's result: its outcome with the teacher and the first weights it had.

    `provenance` is this process's where it is not given.
    """
    checkpoint = outcome.checkpoint
    checkpoints = tuple(teacher.checkpoint for teacher in taught_by)
    teacher, ensemble = (checkpoints[0], ()) if len(checkpoints) == 1 else (None, checkpoints)
    start = context.starts.get(outcome.cell.key)
    start = start if isinstance(start, Assembly) else None
    warmup, pretrained = None, None
    earlier = context.results.result(outcome.cell.key)
    if earlier is not None and earlier.checkpoint is not None and checkpoint is not None:
        teacher, start = teacher or earlier.teacher, start or earlier.start
        ensemble = ensemble or earlier.ensemble
        warmup, pretrained = earlier.warmup, earlier.pretrained
        if earlier.checkpoint.digest == checkpoint.digest:
            checkpoint = earlier.checkpoint  # Its weights had been lost: they are the same again.
    return Result(
        cell=outcome.cell,
        status="failed" if outcome.failures else "done",
        checkpoint=checkpoint,
        teacher=teacher,
        ensemble=ensemble,
        start=start,
        warmup=warmup,
        pretrained=pretrained,
        artifacts=outcome.artifacts,
        failures=outcome.failures,
        provenance=provenance or context.provenance_of(outcome.cell),
    )


def _with_origin(context: RunContext, result: Result, teachers: Teachers) -> Result:
    """Return a result of this run with the warm-up and the pretraining that it was made with."""
    cell, origin = result.cell, dict[str, object]()
    if cell.warmup is not None and cell.warmup.canonical in teachers:
        warmup = warmup_of(cell, teachers)
        origin["warmup"] = warmup.checkpoint if isinstance(warmup, TrainedTeacher) else None
    pretraining = pretraining_of(cell, teachers)
    if pretraining is not None:
        origin["pretrained"] = pretraining
    return result.model_copy(update=origin)


def _write(context: RunContext, result: Result, *, drop_work: bool = True) -> None:
    """Write a cell's result and count it; only then does the saved work of its training go."""
    key = result.cell.key
    earlier = context.results.result(key)
    if earlier is None or earlier.status != "done" or result.checkpoint is not None:
        context.results.write_result(result)
    if drop_work:
        context.results.drop_work(key)
    if result.failures:
        context.summary.failed.append(result)
    else:
        context.summary.done += 1


def _note_failure(context: RunContext, result: Result) -> None:
    for failure in result.failures[:1]:
        what = f" {failure.what}" if failure.what else ""
        reason = f"{failure.stage}{what}: {failure.reason}"
        context.watcher.note(f"failed: {result.cell.label}: {reason}")


def _note_remarks(context: RunContext, result: Result, told: set[str]) -> None:
    """Tell what is odd about exported files, once for all cells of a student."""
    for artifact in result.artifacts:
        for remark in artifact.remarks:
            line = f"{result.cell.student.label} as {artifact.export.label}: {remark}"
            if line not in told:
                context.watcher.note(line)
                told.add(line)
