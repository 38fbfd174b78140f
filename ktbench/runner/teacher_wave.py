"""The wave of teachers and warm-ups: each is trained after those that it learns from."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ktbench.data import Dataset
from ktbench.engine.contract import Lost, Report
from ktbench.networks.layout import Layout
from ktbench.records import (
    OWN_ERRORS,
    Checkpoint,
    Failure,
    KtbenchError,
    NumericSpec,
    SourceSpec,
    StorageError,
    Teacher,
    digest_of,
)
from ktbench.runner.cohort_jobs import CellTask
from ktbench.runner.context import RunContext, Teachers, clocked, teachers_of, warmup_of
from ktbench.runner.data_jobs import same_dataset
from ktbench.runner.narrowing import Narrowing, run_narrowing
from ktbench.runner.progress import Shares
from ktbench.runner.teacher_sources import source_of
from ktbench.runner.trained_teacher import SourceRequest, TrainedTeacher
from ktbench.system.files import write_atomically
from ktbench.teacher import TeacherStore
from ktbench.train import Places, TrainingContext, adopt, train_cohort


@dataclass(frozen=True)
class TeacherJob:
    """Train (or adopt) one teacher into the store and copy it beside the results."""

    teacher: Teacher
    taught_by: tuple[TrainedTeacher, ...]
    """Its own teacher, the members of its ensemble, or nothing."""
    base: Path
    root: Path
    """The results folder."""
    data_digest: str | None = None
    """Digest of the run's data: a node that has other data is refused."""
    layout: Layout | None = None
    """Layout in which it is trained; None where its own layers decide."""
    warmup: TrainedTeacher | None = None
    """The student that its own pairs are chosen with, where it has any."""

    @property
    def numeric(self) -> NumericSpec:
        """Numeric settings of the training."""
        return self.teacher.cell.numeric


def make_teacher(job: TeacherJob, report: Report) -> TrainedTeacher | Failure:
    """Find the teacher in the store or train it into it, and copy it beside the results."""
    try:
        data = same_dataset(job.teacher.cell.data, job.base, job.data_digest)
        return _adopted(job, data) if job.teacher.checkpoint else _stored(job, data, report)
    except (StorageError, OSError):
        raise
    except KtbenchError as error:
        return Failure(stage="teacher", reason=str(error), what=job.teacher.name)
    except OWN_ERRORS as error:  # a user's own network may raise anything
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        return Failure(stage="teacher", reason=reason, what=job.teacher.name)


def _adopted(job: TeacherJob, data: Dataset) -> TrainedTeacher:
    """Evaluate a user's own weights; nothing is trained."""
    assert job.teacher.checkpoint is not None
    cell = job.teacher.cell
    folder = job.root / "work" / f"teacher-{digest_of(job.teacher.canonical)}"
    weights = Path(job.base, job.teacher.checkpoint).expanduser()
    try:
        checkpoint = adopt(cell, weights, dataset=data, places=_places(folder), base=job.base)
        return _copied(job, checkpoint, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _stored(job: TeacherJob, data: Dataset, report: Report) -> TrainedTeacher | Failure:
    """Return the store's teacher; it is locked while it is trained, so two runs train it once."""
    cell, store = job.teacher.cell, TeacherStore()
    folder, notes = store.folder(cell, data.digest), list[str]()
    with store.held(cell, data.digest):
        checkpoint = store.find(cell, data.digest, notes.append)
        if checkpoint is None:
            places = _places(folder)
            request = SourceRequest(cell, SourceSpec(source="live"), job.base)
            [trained] = train_cohort(
                [cell],
                TrainingContext(
                    dataset=data,
                    teacher=source_of(job.taught_by, request),
                    places=lambda _: places,
                    base=job.base,
                    layouts=lambda _: job.layout,
                    warmups=lambda _: job.warmup.network(job.base) if job.warmup else None,
                    report=lambda p: report(p.done / p.total),
                    note=notes.append,
                ),
            )
            if isinstance(trained, Failure):
                return trained.model_copy(update={"stage": "teacher", "what": job.teacher.name})
            store.keep(cell, data.digest, trained)
            places.work.unlink(missing_ok=True)
            checkpoint = trained
        return _copied(job, checkpoint, folder, tuple(notes))


def _places(folder: Path) -> Places:
    return Places(
        root=folder,
        weights=folder / "weights.pt",
        curves=folder / "curves.parquet",
        work=folder / "work.pt",
    )


def _copied(
    job: TeacherJob, checkpoint: Checkpoint, folder: Path, notes: tuple[str, ...] = ()
) -> TrainedTeacher:
    """Copy a teacher beside the results, so that a results folder is whole on its own."""
    target = job.root / "teachers"
    name = f"{job.teacher.cell.key}-{checkpoint.digest}"
    weights, curves = target / f"{name}.pt", target / f"{name}.curves.parquet"
    for source, copy in ((folder / checkpoint.path, weights), (folder / checkpoint.curves, curves)):
        content = source.read_bytes()
        if not copy.is_file() or copy.read_bytes() != content:
            write_atomically(copy, content)
    record = checkpoint.model_copy(
        update={
            "path": str(weights.relative_to(job.root)),
            "curves": str(curves.relative_to(job.root)),
        }
    )
    return TrainedTeacher(job.teacher, record, weights, notes)


# ---------------------------------------------------------------- the wave


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
