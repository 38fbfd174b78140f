"""The cohort job: a plain function from records to records, which any engine can call."""

from __future__ import annotations

import atexit
import hashlib
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import torch

from ktbench.data import Dataset
from ktbench.engine.contract import Lost
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
from ktbench.runner.teacher_jobs import TrainedTeacher, account_of, dataset, same_dataset, source_of
from ktbench.students._contract import Student
from ktbench.supervision import Mark, mark
from ktbench.system.files import write_atomically
from ktbench.system.provenance import collect
from ktbench.teacher.source import TeacherSource
from ktbench.train import Places, Progress, train_cohort

Report = Callable[[float], None]
EXPORTING = "exporting"
"""The stage of a mark that is followed by an export's label."""


@dataclass(frozen=True)
class CellTask:
    """A cell, and what an earlier run has already done of it."""

    cell: Cell
    trained: Checkpoint | None = None
    """Its weights are there: nothing is trained again, and no teacher is needed."""
    exported: tuple[Artifact, ...] = ()
    exported_of: str | None = None
    """Digest of the weights that were exported, where these are lost: others are exported anew."""
    given_up: tuple[Failure, ...] = ()
    """Exports that ended the process: they are not tried again in this run."""


@dataclass(frozen=True)
class CohortJob:
    """Train some cells of one teacher, data order and budget, then export each."""

    tasks: tuple[CellTask, ...]
    taught_by: tuple[TrainedTeacher, ...]
    """None, one, or the members of an ensemble."""
    exports: tuple[ExportSpec, ...]
    base: Path
    root: Path
    source: SourceSpec = field(default_factory=SourceSpec)
    memory: int | None = None
    """Most bytes that the process may hold; None: half of what is free where it runs."""
    workers: int = 1
    """Processes that share what is free."""
    data_digest: str | None = None
    """What the run found its data to be: another, on another node, is refused."""
    starts: dict[str, Path] = field(default_factory=dict)
    """Files of first weights by the cell's key; a cell that is missing begins from its seed."""
    layouts: dict[str, Layout] = field(default_factory=dict)
    """How students are run, by the cell's key; where it is missing, its own layers decide."""

    @property
    def numeric(self) -> NumericSpec:
        """What the cells compute with: they share it."""
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
    """What came of one cell."""

    cell: Cell
    checkpoint: Checkpoint | None
    artifacts: tuple[Artifact, ...] = ()
    failures: tuple[Failure, ...] = ()


@dataclass(frozen=True)
class CohortOutcome:
    """What came of a cohort, and the seconds that each stage worked."""

    cells: tuple[CellOutcome, ...]
    seconds: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    """Lines that the user should see."""
    provenance: Provenance | None = None
    """Where the cells were made; None where it was not found out."""


# ---------------------------------------------------------------- cohorts


def train_and_export(job: CohortJob, report: Report) -> CohortOutcome:
    """Every cell of a cohort trained and exported; failures are outcomes, not exceptions."""
    clock = time.perf_counter()
    seconds: dict[str, float] = {}
    notes: list[str] = []
    try:
        torch.set_num_threads(job.numeric.threads)  # exports too: it changes the order of sums
        data = same_dataset(job.tasks[0].cell.data, job.base, job.data_digest)
        with ExitStack() as ending:
            source = source_of(
                job.taught_by,
                job.tasks[0].cell,
                base=job.base,
                wanted=job.source,
                note=notes.append,
                history=job.root / "pool",
                ending=ending,
            )
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
    """Checkpoints in the order of the tasks; only cells without one are trained."""
    cells = [task.cell for task in job.tasks if task.trained is None]

    def tell(progress: Progress) -> None:
        report(progress.done / max(1, job.units))

    trained = iter(
        train_cohort(
            cells,
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
        )
        if cells
        else ()
    )
    return [task.trained or next(trained) for task in job.tasks]


def cell_places(root: Path, cell: Cell) -> Places:
    """Where a cell's files lie in a results folder."""
    folder = ResultsFolder(root)
    return Places(
        root=root,
        weights=folder.weights(cell.key),
        curves=folder.curves(cell.key),
        work=folder.work(cell.key) / "training.pt",
    )


@lru_cache(maxsize=2)
def _exporter(spec_json: str, base: Path, root: Path) -> Exporter:
    """One per data set and process: it keeps what cells of one architecture share."""
    exporter = Exporter(
        dataset(DataSpec.model_validate_json(spec_json), base), root / "artifacts", root
    )
    atexit.register(exporter.close)
    return exporter


def _export_cell(
    job: CohortJob, task: CellTask, checkpoint: Checkpoint, data: Dataset
) -> CellOutcome:
    cell = task.cell
    exported = task.exported if task.exported_of in (None, checkpoint.digest) else ()
    done: list[Artifact | Failure] = [*exported, *task.given_up]
    there = {artifact.export for artifact in exported}
    given_up = {failure.what for failure in task.given_up}
    wanted = [e for e in job.exports if e not in there and e.label not in given_up]
    guard = Guard()
    try:
        if wanted:
            exporter = _exporter(cell.data.model_dump_json(), job.base, job.root)
            student = _trained_student(job, cell, checkpoint, data)
            done += [_export(job, exporter, student, checkpoint, cell, spec) for spec in wanted]
    except StorageError:
        raise
    except OWN_ERRORS as error:  # a user's own network may raise anything
        done.append(Failure(stage="export", reason=one_line(error)))
    finally:
        guard.put_back()
    return CellOutcome(
        cell,
        checkpoint,
        artifacts=tuple(x for x in done if isinstance(x, Artifact)),
        failures=tuple(x for x in done if isinstance(x, Failure)),
    )


def _export(
    job: CohortJob,
    exporter: Exporter,
    student: Student,
    checkpoint: Checkpoint,
    cell: Cell,
    spec: ExportSpec,
) -> Artifact | Failure:
    """One export, kept on record until the cell's result is written: a killed run's stands."""
    record = ResultsFolder(job.root).work(cell.key) / f"{spec.label}-{checkpoint.digest}.json"
    with suppress(OSError, ValueError):
        earlier = Artifact.model_validate_json(record.read_bytes())
        content = (job.root / earlier.path).read_bytes()
        if hashlib.sha256(content).hexdigest()[:16] == earlier.digest:
            return earlier
    mark(cell.key, EXPORTING, spec.label)
    outcome = exporter.export(student, cell, spec)
    if isinstance(outcome, Artifact):
        write_atomically(record, outcome.model_dump_json(indent=1))
    return outcome


def _trained_student(job: CohortJob, cell: Cell, checkpoint: Checkpoint, data: Dataset) -> Student:
    """The student with the very weights that the checkpoint's record names."""
    weights = job.root / checkpoint.path
    student = load_student(
        cell,
        weights,
        num_classes=len(data.classes),
        in_channels=data.shape[0],
        base=job.base,
    )
    if weights_digest(student.state_dict()) != checkpoint.digest:
        raise KtbenchError(
            f"{weights}: is not what was trained (another digest): delete it to train again"
        )
    return student


# ---------------------------------------------------------------- jobs whose process died


def stage_of(mark: Mark) -> Stage:
    """The stage of a failure for what was marked as being worked on."""
    return "export" if mark.stage == EXPORTING else "train"


def narrowed(job: CohortJob, groups: Sequence[Sequence[int]], lost: Lost) -> list[CohortJob]:
    """The job's tasks in smaller jobs; a cell whose export ends the process does without it."""
    if groups:
        return [replace(job, tasks=tuple(job.tasks[n] for n in group)) for group in groups]
    [task] = job.tasks
    known = {failure.what for failure in task.given_up}
    label = lost.mark.what
    if lost.mark.stage != EXPORTING or label in known:
        return []
    failure = Failure(stage="export", what=label, reason=lost.reason)
    return [replace(job, tasks=(replace(task, given_up=(*task.given_up, failure)),))]


def saved_work(folder: Path) -> dict[str, str]:
    """The digests of what is saved of a cell's work: they change when the work has come on."""
    with suppress(OSError):
        return {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.iterdir())
        }
    return {}
