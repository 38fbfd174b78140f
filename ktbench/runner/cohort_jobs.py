"""The cohort job: a plain function from records to records, which any engine can call."""

from __future__ import annotations

import atexit
import hashlib
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path

import torch

from ktbench.data import Dataset
from ktbench.engine.contract import Lost, Report
from ktbench.export.exporter import Exporter
from ktbench.isolation import Guard
from ktbench.networks.layout import Layout
from ktbench.networks.weights import load_student, weights_digest
from ktbench.records import (
    OWN_ERRORS,
    Artifact,
    Cell,
    Checkpoint,
    DataSpec,
    ExportSpec,
    Failure,
    KtbenchError,
    NumericSpec,
    Provenance,
    SourceSpec,
    Stage,
    StorageError,
    one_line,
)
from ktbench.results import ResultsFolder
from ktbench.runner.data_jobs import dataset, same_dataset
from ktbench.runner.teacher_sources import account_of, source_of
from ktbench.runner.trained_teacher import SourceRequest, TrainedTeacher
from ktbench.students._contract import Student
from ktbench.supervision import Mark, mark
from ktbench.system.files import write_atomically
from ktbench.system.provenance import collect
from ktbench.teacher.source import TeacherSource
from ktbench.train import Places, Progress, TrainingContext, train_cohort

EXPORTING = "exporting"
"""The stage of a mark that is followed by an export's label."""


@dataclass(frozen=True)
class CellTask:
    """A cell, and what an earlier run has already done of it."""

    cell: Cell
    trained: Checkpoint | None = None
    """Weights that are there: nothing is trained again, and no teacher is needed."""
    exported: tuple[Artifact, ...] = ()
    exported_of: str | None = None
    """Digest of the weights that were exported, where these are lost: others are exported again."""
    given_up: tuple[Failure, ...] = ()
    """Exports that ended the process: they are not tried again in this run."""


@dataclass(frozen=True)
class CohortJob:
    """Train some cells of one teacher, data order and budget, then export each."""

    tasks: tuple[CellTask, ...]
    taught_by: tuple[TrainedTeacher, ...]
    """The cells' teacher, the members of their ensemble, or nothing."""
    exports: tuple[ExportSpec, ...]
    base: Path
    root: Path
    source: SourceSpec = field(default_factory=SourceSpec)
    memory: int | None = None
    """Most bytes that the process may hold; None for half of what is free where it runs."""
    workers: int = 1
    """Processes that share what is free."""
    data_digest: str | None = None
    """Digest of the run's data: a node that has other data is refused."""
    starts: dict[str, Path] = field(default_factory=dict)
    """Files of first weights by the cell's key; a cell that is missing begins from its seed."""
    layouts: dict[str, Layout] = field(default_factory=dict)
    """Students' layouts by the cell's key; where one is missing, its own layers decide."""
    warmups: dict[str, TrainedTeacher] = field(default_factory=dict)
    """Students that pairs are chosen with, by the key of the cell that asks for one."""

    @property
    def numeric(self) -> NumericSpec:
        """Numeric settings that the cells share."""
        return self.tasks[0].cell.numeric

    @property
    def units(self) -> int:
        """Epochs and exports to do: an export counts as an epoch, near enough for a bar."""
        epochs = sum(t.cell.train.epochs for t in self.tasks if t.trained is None)
        return epochs + sum(len(self.exports) - len(t.exported) for t in self.tasks)

    @property
    def label(self) -> str:
        """Names what is being worked on."""
        more = f" and {len(self.tasks) - 1} more" if len(self.tasks) > 1 else ""
        return self.tasks[0].cell.label + more


@dataclass(frozen=True)
class CellOutcome:
    """Checkpoint, artifacts and failures of one cell."""

    cell: Cell
    checkpoint: Checkpoint | None
    artifacts: tuple[Artifact, ...] = ()
    failures: tuple[Failure, ...] = ()


@dataclass(frozen=True)
class CohortOutcome:
    """Outcomes of a cohort's cells, and the seconds that each stage worked."""

    cells: tuple[CellOutcome, ...]
    seconds: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    """Lines that the user should see."""
    provenance: Provenance | None = None
    """Provenance of the cells; None where the training failed as a whole."""


# ---------------------------------------------------------------- cohorts


def train_and_export(job: CohortJob, report: Report) -> CohortOutcome:
    """Train and export every cell of a cohort; failures are outcomes, not exceptions."""
    clock = time.perf_counter()
    seconds: dict[str, float] = {}
    notes: list[str] = []
    try:
        torch.set_num_threads(job.numeric.threads)  # exports too: it changes the order of sums
        data = same_dataset(job.tasks[0].cell.data, job.base, job.data_digest)
        with ExitStack() as ending:
            request = SourceRequest(
                taught=job.tasks[0].cell,
                spec=job.source,
                base=job.base,
                note=notes.append,
                history=job.root / "pool",
                ending=ending,
            )
            source = source_of(job.taught_by, request)
            seconds["data"], clock = time.perf_counter() - clock, time.perf_counter()
            try:
                trained = _train(job, data, source, report, notes.append)
            finally:
                notes += [f"{account}: {job.label}" for account in account_of(source)]
    except (StorageError, OSError):
        raise
    except OWN_ERRORS as error:  # a user's own network may raise anything
        failure = Failure(stage="train", reason=one_line(error))
        cells = tuple(CellOutcome(t.cell, t.trained, t.exported, (failure,)) for t in job.tasks)
        return CohortOutcome(cells, seconds, tuple(notes))
    seconds["training"], clock = time.perf_counter() - clock, time.perf_counter()
    outcomes = []
    done = sum(task.cell.train.epochs for task in job.tasks if task.trained is None)
    for task, checkpoint in zip(job.tasks, trained, strict=True):
        if isinstance(checkpoint, Failure):
            outcomes.append(CellOutcome(task.cell, None, failures=(checkpoint,)))
        else:
            outcomes.append(_export_cell(job, task, checkpoint, data))
        done += len(job.exports) - len(task.exported)
        report(min(1.0, done / max(1, job.units)))
    seconds["export"] = time.perf_counter() - clock
    return CohortOutcome(tuple(outcomes), seconds, tuple(notes), collect(data.digest))


def _train(
    job: CohortJob,
    data: Dataset,
    source: TeacherSource | None,
    report: Report,
    note: Callable[[str], None],
) -> list[Checkpoint | Failure]:
    """Train the cells without a checkpoint; return all checkpoints in the order of the tasks."""
    cells = [task.cell for task in job.tasks if task.trained is None]

    def tell(progress: Progress) -> None:
        report(progress.done / max(1, job.units))

    trained = iter(
        train_cohort(
            cells,
            TrainingContext(
                dataset=data,
                teacher=source,
                places=lambda cell: cell_places(job.root, cell),
                base=job.base,
                report=tell,
                note=note,
                memory=job.memory,
                workers=job.workers,
                safeguard=job.source.source == "pool",
                first_weights=lambda cell: job.starts.get(cell.key),
                layouts=lambda cell: job.layouts.get(cell.key),
                warmups=partial(_warmed_up, job),
            ),
        )
        if cells
        else ()
    )
    return [task.trained or next(trained) for task in job.tasks]


def _warmed_up(job: CohortJob, cell: Cell) -> Student | None:
    """Return the trained student that a cell's pairs are chosen with."""
    warmup = job.warmups.get(cell.key)
    return None if warmup is None else warmup.network(job.base)


def cell_places(root: Path, cell: Cell) -> Places:
    """Return the places of a cell's files in a results folder."""
    folder = ResultsFolder(root)
    return Places(
        root=root,
        weights=folder.weights(cell.key),
        curves=folder.curves(cell.key),
        work=folder.work(cell.key) / "training.pt",
    )


@lru_cache(maxsize=2)
def _exporter(spec: DataSpec, base: Path, root: Path) -> Exporter:
    """Return a data set's exporter; it keeps what the cells of one architecture share."""
    exporter = Exporter(dataset(spec, base), root / "artifacts", root)
    atexit.register(exporter.close)
    return exporter


def _export_cell(
    job: CohortJob, task: CellTask, checkpoint: Checkpoint, data: Dataset
) -> CellOutcome:
    cell = task.cell
    exported = task.exported if task.exported_of in (None, checkpoint.digest) else ()
    outcomes: list[Artifact | Failure] = [*exported, *task.given_up]
    present = {artifact.export for artifact in exported}
    given_up = {failure.what for failure in task.given_up}
    missing = [e for e in job.exports if e not in present and e.label not in given_up]
    guard = Guard()
    try:
        if missing:
            exporter = _exporter(cell.data, job.base, job.root)
            student = _trained_student(job, cell, checkpoint, data)
            work = ResultsFolder(job.root).work(cell.key)
            records = [work / f"{spec.label}-{checkpoint.digest}.json" for spec in missing]
            outcomes += [
                _recorded(record, job.root) or _export(exporter, student, cell, spec, record)
                for spec, record in zip(missing, records, strict=True)
            ]
    except StorageError:
        raise
    except OWN_ERRORS as error:  # a user's own network may raise anything
        outcomes.append(Failure(stage="export", reason=one_line(error)))
    finally:
        guard.put_back()
    return CellOutcome(
        cell,
        checkpoint,
        artifacts=tuple(x for x in outcomes if isinstance(x, Artifact)),
        failures=tuple(x for x in outcomes if isinstance(x, Failure)),
    )


def _export(
    exporter: Exporter, student: Student, cell: Cell, spec: ExportSpec, record: Path
) -> Artifact | Failure:
    """Export a cell, and keep the artifact on record until the cell's result is written."""
    mark(cell.key, EXPORTING, spec.label)
    outcome = exporter.export(student, cell, spec)
    if isinstance(outcome, Artifact):
        write_atomically(record, outcome.model_dump_json(indent=1))
    return outcome


def _recorded(record: Path, root: Path) -> Artifact | None:
    """Return the artifact that a killed run has left on record, where its file is whole."""
    with suppress(OSError, ValueError):
        artifact = Artifact.model_validate_json(record.read_bytes())
        content = (root / artifact.path).read_bytes()
        if hashlib.sha256(content).hexdigest()[:16] == artifact.digest:
            return artifact
    return None


def _trained_student(job: CohortJob, cell: Cell, checkpoint: Checkpoint, data: Dataset) -> Student:
    """Load the student with the very weights that the checkpoint's record names."""
    weights = job.root / checkpoint.path
    student = load_student(cell, weights, base=job.base, **data.dimensions)
    if weights_digest(student.state_dict()) != checkpoint.digest:
        raise KtbenchError(
            f"{weights}: is not what was trained (another digest): delete it to train again"
        )
    return student


# ---------------------------------------------------------------- jobs whose process died


def stage_of(mark: Mark) -> Stage:
    """Return the stage in which work that was marked so has failed."""
    return "export" if mark.stage == EXPORTING else "train"


def narrowed(job: CohortJob, groups: Sequence[Sequence[int]], lost: Lost) -> list[CohortJob]:
    """Split the job into smaller ones; a cell whose export ends the process does without it."""
    if groups:
        return [replace(job, tasks=tuple(job.tasks[n] for n in group)) for group in groups]
    [task] = job.tasks
    label = lost.mark.what
    if lost.mark.stage != EXPORTING or label in {failure.what for failure in task.given_up}:
        return []
    failure = Failure(stage="export", what=label, reason=lost.reason)
    return [replace(job, tasks=(replace(task, given_up=(*task.given_up, failure)),))]


def saved_work(folder: Path) -> dict[str, str]:
    """Digest a cell's saved files: the digests change when its work has moved on."""
    with suppress(OSError):
        return {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.iterdir())
        }
    return {}
