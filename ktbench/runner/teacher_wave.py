"""The wave of teachers and warm-ups: each is trained after those that it learns from."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import suppress
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
from ktbench.results import ResultsFolder
from ktbench.results.integrity import Integrity
from ktbench.results.membership import taught
from ktbench.runner.brought_teacher import examined
from ktbench.runner.cohort_jobs import CellTask
from ktbench.runner.context import (
    RunContext,
    Teachers,
    clocked,
    pretrained_of,
    teachers_of,
    warmup_of,
)
from ktbench.runner.data_jobs import same_dataset
from ktbench.runner.narrowing import Narrowing, run_narrowing
from ktbench.runner.progress import Shares
from ktbench.runner.teacher_sources import source_of
from ktbench.runner.trained_teacher import SourceRequest, TrainedTeacher
from ktbench.system.files import named_path, write_atomically
from ktbench.system.provenance import collect
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
    pretrained: TrainedTeacher | None = None
    """The training whose weights it begins from, where there is one."""
    elsewhere: tuple[Path, ...] = ()
    """Results folders that may hold it as a cell."""

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
    cell, digest = job.teacher.cell, job.teacher.checkpoint_digest
    folder = job.root / "work" / f"teacher-{digest_of(job.teacher.canonical)}"
    weights = named_path(job.teacher.checkpoint, job.base)
    try:
        data = data.preprocessed(job.teacher.preprocess)
        checkpoint = adopt(
            cell, weights, dataset=data, places=_places(folder), base=job.base, digest=digest
        )
        return examined(_copied(job, checkpoint, folder), job.base)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _stored(job: TeacherJob, data: Dataset, report: Report) -> TrainedTeacher | Failure:
    """Return the store's teacher; it is locked while it is trained, so two runs train it once."""
    cell, store = job.teacher.cell, TeacherStore()
    learnt_from, notes = _learnt_from(job, data), list[str]()
    folder = store.folder(cell, learnt_from)
    with store.held(cell, learnt_from):
        checkpoint = store.find(cell, learnt_from, notes.append)
        if checkpoint is None and (kept := _kept_elsewhere(job, data)) is not None:
            return _copied(job, kept.checkpoint, kept.root, tuple(notes))
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
                    first_weights=lambda _: job.pretrained.weights if job.pretrained else None,
                    report=lambda p: report(p.done / p.total),
                    note=notes.append,
                ),
            )
            if isinstance(trained, Failure):
                return trained.model_copy(update={"stage": "teacher", "what": job.teacher.name})
            store.keep(cell, learnt_from, trained)
            places.work.unlink(missing_ok=True)
            checkpoint = trained
        return _copied(job, checkpoint, folder, tuple(notes))


def _learnt_from(job: TeacherJob, data: Dataset) -> str:
    """Return a digest of a training's data, and of the trainings behind it that had other data."""
    behind = [one for one in (*job.taught_by, job.pretrained) if one is not None]
    others = [
        one.checkpoint.digest for one in behind if one.teacher.cell.data != job.teacher.cell.data
    ]
    return digest_of([data.digest, *others]) if others else data.digest


@dataclass(frozen=True)
class Kept:
    """A trained cell in another results folder."""

    checkpoint: Checkpoint
    root: Path


def _kept_elsewhere(job: TeacherJob, data: Dataset) -> Kept | None:
    """Return the training as another matrix's run has left it, if that is whole and comparable.

    Equal cells have equal weights on equal data, one version of torch and one kind of machine.
    """
    cell, ours = job.teacher.cell, collect(data.digest)
    for root in job.elsewhere:
        with suppress(KtbenchError, OSError):
            results = ResultsFolder(root)
            stored = results.stored_of(cell)
            if stored is None or stored.record.checkpoint is None:
                continue
            theirs = stored.record.provenance
            same = (theirs.data_digest, theirs.versions.get("torch"), theirs.machine)
            if same != (data.digest, ours.versions.get("torch"), ours.machine):
                continue
            if theirs.instruction_set not in (None, ours.instruction_set):
                continue
            ends = zip(taught(stored.record), job.taught_by, strict=False)
            pairs = [(then.data_digest, now.checkpoint.data_digest) for (_, then), now in ends]
            if any(None not in pair and pair[0] != pair[1] for pair in pairs):
                continue  # its teacher learnt from data that have changed since
            if not Integrity(root, results.lock()).faults(stored):
                return Kept(stored.record.checkpoint, root)
    return None


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
    name = f"{_identity(job.teacher)}-{checkpoint.digest}"
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


def _identity(teacher: Teacher) -> str:
    """Return the cell's key, or a digest that differs where the network has inputs of its own.

    The curve of equal weights differs with their inputs.
    """
    key, own = teacher.cell.key, teacher.preprocess
    return key if own is None else digest_of([key, own.canonical])


# ---------------------------------------------------------------- the wave


def teacher_wave(context: RunContext, tasks: Sequence[CellTask]) -> Teachers:
    """Train every teacher, warm-up and pretraining that is needed, each after those before it."""
    cells = tuple(task.cell for task in tasks if task.trained is None)
    plan = context.plan.model_copy(update={"cells": cells})
    needed = (*plan.warmups, *plan.teachers, *plan.pretrainings)
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
    before = (*cell.teachers, cell.warmup, cell.pretrained)
    return max((1 + _depth(one) for one in before if one is not None), default=0)


def _jobs(context: RunContext, needed: Sequence[Teacher], teachers: Teachers) -> list[TeacherJob]:
    """Return the jobs of teachers that can be trained; add the others to `teachers` as failed."""
    jobs = []
    for teacher in needed:
        taught_by = teachers_of(teacher.cell, teachers)
        warmup = warmup_of(teacher.cell, teachers)
        pretrained = pretrained_of(teacher.cell, teachers)
        if (
            isinstance(taught_by, Failure)
            or isinstance(warmup, Failure)
            or isinstance(pretrained, Failure)
        ):
            failures = (o for o in (taught_by, warmup, pretrained) if isinstance(o, Failure))
            teachers[teacher.canonical] = next(failures)
            continue
        layout = None if teacher.checkpoint else context.checked.of(teacher.cell)
        if isinstance(layout, Failure):
            failure = layout.model_copy(update={"stage": "teacher", "what": teacher.name})
            _add_failed(context, teacher, failure, teachers)
        else:
            digest = context.provenance_of(teacher.cell).data_digest
            places = context.base, context.root
            jobs.append(
                TeacherJob(
                    teacher,
                    taught_by,
                    *places,
                    digest,
                    layout,
                    warmup,
                    pretrained,
                    tuple(context.root.parent / name for name in context.plan.pretrained_in),
                )
            )
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
