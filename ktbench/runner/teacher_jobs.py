"""The teacher job: one teacher trained or adopted into the store, and copied beside the results."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from ktbench.data import Dataset
from ktbench.engine.contract import Report
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
from ktbench.runner.data_jobs import same_dataset
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
