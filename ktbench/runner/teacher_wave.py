"""The wave of teachers and warm-ups: each is trained after those that it learns from."""

from __future__ import annotations

from collections.abc import Sequence

from ktbench.engine.contract import Lost
from ktbench.records import Failure, Teacher
from ktbench.runner.cohort_jobs import CellTask
from ktbench.runner.context import RunContext, Teachers, clocked, teachers_of, warmup_of
from ktbench.runner.narrowing import Narrowing, run_narrowing
from ktbench.runner.progress import Shares
from ktbench.runner.teacher_jobs import TeacherJob, make_teacher


def teacher_wave(context: RunContext, tasks: Sequence[CellTask]) -> Teachers:
    """Train every teacher and warm-up that a training needs, each after those before it."""
    cells = tuple(task.cell for task in tasks if task.trained is None)
    plan = context.plan.model_copy(update={"cells": cells})
    needed = (*plan.warmups, *plan.teachers)
    teachers: Teachers = {}
    if not needed:
        return teachers
    context.watcher.begin("teachers", sum(t.cell.train.epochs for t in needed))
    shares = Shares(context.watcher)
    with clocked(context.summary, "teachers"):
        for depth in sorted({_depth(t) for t in needed}):
            together = [t for t in needed if _depth(t) == depth]
            _train(context, _jobs(context, together, teachers), teachers, shares)
    context.watcher.end()
    return teachers


def _depth(teacher: Teacher) -> int:
    """Count the trainings that come before this one: those of one depth can go on at once."""
    cell = teacher.cell
    before = (*cell.teachers, *([cell.warmup] if cell.warmup else []))
    return max((1 + _depth(one) for one in before), default=0)


def _jobs(context: RunContext, needed: Sequence[Teacher], teachers: Teachers) -> list[TeacherJob]:
    """Return the jobs of teachers that can be trained; add the others to `teachers` as failed."""
    jobs = []
    for teacher in needed:
        taught_by = teachers_of(teacher.cell, teachers)
        warmup = warmup_of(teacher.cell, teachers)
        if isinstance(taught_by, Failure) or isinstance(warmup, Failure):
            failures = (one for one in (taught_by, warmup) if isinstance(one, Failure))
            teachers[teacher.canonical] = next(failures)
            continue
        layout = None if teacher.checkpoint else context.checked.of(teacher.cell)
        if isinstance(layout, Failure):
            failure = layout.model_copy(update={"stage": "teacher", "what": teacher.name})
            _add_failed(context, teacher, failure, teachers)
        else:
            digest = context.provenance_of(teacher.cell).data_digest
            places = context.base, context.root
            jobs.append(TeacherJob(teacher, taught_by, *places, digest, layout, warmup))
    return jobs


def _train(
    context: RunContext, jobs: Sequence[TeacherJob], teachers: Teachers, shares: Shares
) -> None:
    """Add what comes of each job to `teachers`."""

    def tell(job: TeacherJob, share: float) -> None:
        shares.tell(job, job.teacher.cell.train.epochs, share, job.teacher.name)

    def again(job: TeacherJob, lost: Lost) -> list[TeacherJob]:
        shares.drop(job)
        return [job for _ in deaths.again([job.teacher.canonical], lost)]

    deaths = Narrowing()
    for job, outcome in run_narrowing(context.engine, make_teacher, jobs, tell, again):
        shares.finish(job, job.teacher.cell.train.epochs)
        if isinstance(outcome, Lost):
            outcome = Failure(stage="teacher", reason=outcome.reason, what=job.teacher.name)
        if isinstance(outcome, Failure):
            _add_failed(context, job.teacher, outcome, teachers)
        else:
            teachers[job.teacher.canonical] = outcome
            for note in outcome.notes:
                context.watcher.note(note)


def _add_failed(
    context: RunContext, teacher: Teacher, failure: Failure, teachers: Teachers
) -> None:
    teachers[teacher.canonical] = failure
    context.watcher.note(f"failed: teacher {teacher.name}: {failure.reason}")
