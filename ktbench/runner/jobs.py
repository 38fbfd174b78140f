"""The jobs of a run: plain functions from records to records, which any engine can call."""

from __future__ import annotations

import atexit
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from ktbench.data import Dataset, load
from ktbench.export.exporter import Exporter
from ktbench.records import (
    Artifact,
    Cell,
    Checkpoint,
    DataSpec,
    ExportSpec,
    Failure,
    KtbenchError,
    StorageError,
    Teacher,
)
from ktbench.results import ResultsFolder
from ktbench.teacher.live import Live
from ktbench.teacher.source import TeacherSource
from ktbench.teacher.store import TeacherStore
from ktbench.train import Places, Progress, adopt, train_cohort
from ktbench.weights import load_student

Report = Callable[[float], None]


@lru_cache(maxsize=4)
def _dataset(spec_json: str, base: Path) -> Dataset:
    return load(DataSpec.model_validate_json(spec_json), base)


def dataset(spec: DataSpec, base: Path) -> Dataset:
    """A data set, loaded once per process."""
    return _dataset(spec.model_dump_json(), base)


@dataclass(frozen=True)
class TrainedTeacher:
    """A teacher that is there: its record, and the file of its weights."""

    teacher: Teacher
    checkpoint: Checkpoint
    weights: Path


@dataclass(frozen=True)
class TeacherJob:
    """Train (or adopt) one teacher into the store and copy it beside the results."""

    teacher: Teacher
    taught_by: TrainedTeacher | None
    base: Path
    root: Path
    """The results folder."""


@dataclass(frozen=True)
class CellTask:
    """A cell, and what an earlier run has already done of it."""

    cell: Cell
    trained: Checkpoint | None = None
    exported: tuple[Artifact, ...] = ()


@dataclass(frozen=True)
class CohortJob:
    """Train some cells of one teacher, data order and budget, then export each."""

    tasks: tuple[CellTask, ...]
    taught_by: TrainedTeacher | None
    exports: tuple[ExportSpec, ...]
    base: Path
    root: Path

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


# ---------------------------------------------------------------- teachers


def make_teacher(job: TeacherJob, report: Report) -> TrainedTeacher | Failure:
    """The teacher from the store, or trained into it; always copied beside the results."""
    try:
        return _make_teacher(job, report)
    except StorageError:
        raise
    except KtbenchError as error:
        return Failure(stage="teacher", reason=str(error), what=job.teacher.name)


def _make_teacher(job: TeacherJob, report: Report) -> TrainedTeacher | Failure:
    cell = job.teacher.cell
    data = dataset(cell.data, job.base)
    store = TeacherStore()
    folder = store.folder(cell, data.digest)
    if job.teacher.checkpoint is not None:
        folder = job.root / "work" / f"teacher-{cell.key}"
    places = Places(
        root=folder,
        weights=folder / "weights.pt",
        curves=folder / "curves.parquet",
        work=folder / "work.pt",
    )
    if job.teacher.checkpoint is not None:
        found = adopt(
            cell,
            Path(job.base, job.teacher.checkpoint).expanduser(),
            dataset=data,
            places=places,
            base=job.base,
        )
    elif (stored := store.find(cell, data.digest)) is not None:
        found = stored
    else:
        source = _source(job.taught_by, data, job.base)
        [trained] = train_cohort(
            [cell],
            dataset=data,
            teacher=source,
            places=lambda _: places,
            base=job.base,
            report=lambda p: report(p.done / p.total),
        )
        if isinstance(trained, Failure):
            return trained.model_copy(update={"stage": "teacher", "what": job.teacher.name})
        store.keep(cell, data.digest, trained)
        places.work.unlink(missing_ok=True)
        found = trained
    return _copied(job, found, folder)


def _copied(job: TeacherJob, found: Checkpoint, folder: Path) -> TrainedTeacher:
    """Teachers lie beside the results too, so that a results folder is whole on its own."""
    target = job.root / "teachers"
    target.mkdir(parents=True, exist_ok=True)
    name = f"{job.teacher.cell.key}-{found.digest}"
    weights, curves = target / f"{name}.pt", target / f"{name}.curves.parquet"
    for source, copy in ((folder / found.path, weights), (folder / found.curves, curves)):
        if not copy.exists():
            shutil.copyfile(source, copy.with_name(f".tmp-{copy.name}"))
            copy.with_name(f".tmp-{copy.name}").replace(copy)
    record = found.model_copy(
        update={
            "path": str(weights.relative_to(job.root)),
            "curves": str(curves.relative_to(job.root)),
        }
    )
    return TrainedTeacher(job.teacher, record, weights)


def _source(taught_by: TrainedTeacher | None, data: Dataset, base: Path) -> TeacherSource | None:
    if taught_by is None:
        return None
    cell = taught_by.teacher.cell
    trained_on = dataset(cell.data, base)
    network = load_student(
        cell,
        taught_by.weights,
        num_classes=len(trained_on.classes),
        in_channels=trained_on.shape[0],
        base=base,
    )
    return Live(network, trained_on=trained_on, dataset=data)


# ---------------------------------------------------------------- cohorts


def train_and_export(job: CohortJob, report: Report) -> CohortOutcome:
    """Every cell of a cohort trained and exported; failures are outcomes, not exceptions."""
    clock = time.perf_counter()
    seconds = {}
    cells = [task.cell for task in job.tasks]
    try:
        data = dataset(cells[0].data, job.base)
        source = _source(job.taught_by, data, job.base)
        seconds["data"], clock = time.perf_counter() - clock, time.perf_counter()
        trained = _train(job, data, source, report)
    except StorageError:
        raise
    except KtbenchError as error:
        failure = Failure(stage="train", reason=str(error))
        return CohortOutcome(tuple(CellOutcome(c, None, failures=(failure,)) for c in cells))
    seconds["training"], clock = time.perf_counter() - clock, time.perf_counter()
    outcomes = []
    done = sum(cell.train.epochs for cell in cells)
    for task, checkpoint in zip(job.tasks, trained, strict=True):
        if isinstance(checkpoint, Failure):
            outcomes.append(CellOutcome(task.cell, None, failures=(checkpoint,)))
        else:
            outcomes.append(_export_cell(job, task, checkpoint, data))
        done += len(job.exports)
        report(min(1.0, done / max(1, job.units)))
    seconds["export"] = time.perf_counter() - clock
    return CohortOutcome(tuple(outcomes), seconds)


def _train(
    job: CohortJob, data: Dataset, source: TeacherSource | None, report: Report
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
    exporter = Exporter(_dataset(spec_json, base), root / "artifacts", root)
    atexit.register(exporter.close)
    return exporter


def _export_cell(
    job: CohortJob, task: CellTask, checkpoint: Checkpoint, data: Dataset
) -> CellOutcome:
    cell = task.cell
    exporter = _exporter(cell.data.model_dump_json(), job.base, job.root)
    student = load_student(
        cell,
        job.root / checkpoint.path,
        num_classes=len(data.classes),
        in_channels=data.shape[0],
        base=job.base,
    )
    there = {artifact.export for artifact in task.exported}
    done: list[Artifact | Failure] = list(task.exported)
    for spec in job.exports:
        if spec not in there:
            done.append(exporter.export(student, cell, spec))
    return CellOutcome(
        cell,
        checkpoint,
        artifacts=tuple(x for x in done if isinstance(x, Artifact)),
        failures=tuple(x for x in done if isinstance(x, Failure)),
    )
