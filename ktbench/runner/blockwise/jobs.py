"""The jobs of blockwise distillation: blocks timed, trained and put together.

Each is a plain function from records to records, which any engine can call.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ktbench.blockwise import BlockStore, BlockTask, Made, gather, measured_loads, train_blocks
from ktbench.blockwise.pipeline import Place
from ktbench.blockwise.schedule import Load
from ktbench.data import Dataset
from ktbench.networks.weights import load_student
from ktbench.records import (
    OWN_ERRORS,
    Assembly,
    BlockResult,
    BlockRun,
    Cell,
    Failure,
    NumericSpec,
    Start,
    StorageError,
    one_line,
)
from ktbench.runner.teacher_jobs import TrainedTeacher, dataset, same_dataset
from ktbench.students._contract import Student
from ktbench.train import checkpoint_interval

Report = Callable[[float], None]


@dataclass(frozen=True)
class BlocksJob:
    """Some blocks of one teacher, data set, seed and budget, to be timed or trained."""

    cell: Cell
    """One of the cells that begin from them."""
    tasks: tuple[BlockTask, ...]
    taught_by: TrainedTeacher
    how: BlockRun
    base: Path
    root: Path
    data_digest: str | None = None
    """What the run found its data to be: another, on another node, is refused."""
    place: Place | None = None
    """In a chain of workers that share one pass of the teacher."""

    @property
    def numeric(self) -> NumericSpec:
        """What the blocks are trained with."""
        return self.cell.numeric

    @property
    def units(self) -> int:
        """Epochs of all blocks, at most."""
        return start_of(self.cell).train.epochs * len(self.tasks)

    @property
    def label(self) -> str:
        """Names what is being worked on."""
        more = f" and {len(self.tasks) - 1} more" if len(self.tasks) > 1 else ""
        teacher = self.taught_by.teacher.name
        return f"{teacher}: {self.tasks[0].name}{more} / seed {self.cell.seed}"


@dataclass(frozen=True)
class BlocksOutcome:
    """What came of some blocks, in the order of the job's tasks."""

    results: tuple[BlockResult | Failure, ...]
    cpu_seconds: float = 0.0
    """Of all threads of the process."""
    began: float = 0.0
    ended: float = 0.0
    """Of this node's clock."""
    notes: tuple[str, ...] = ()
    """Lines that the user should see."""


@dataclass(frozen=True)
class GatherJob:
    """Put a student's first weights together from its blocks."""

    cell: Cell
    results: tuple[BlockResult | Failure, ...]
    taught_by: TrainedTeacher
    base: Path
    root: Path
    made: Made
    """How its blocks were trained."""

    @property
    def numeric(self) -> NumericSpec:
        """What the network is evaluated with."""
        return self.cell.numeric


def start_of(cell: Cell) -> Start:
    """Where the cell begins; only of cells that begin from blocks."""
    assert cell.start is not None
    return cell.start


def train_some(job: BlocksJob, report: Report) -> BlocksOutcome:
    """Every block of the job trained; failures are outcomes, not exceptions."""
    began, cpu = time.time(), time.process_time()
    notes: list[str] = []
    try:
        data = same_dataset(job.cell.data, job.base, job.data_digest)
        teacher, trained_on = _teacher(job.taught_by, job.base)
        results = train_blocks(
            job.tasks,
            teacher=teacher,
            trained_on=trained_on,
            dataset=data,
            spec=start_of(job.cell).train,
            numeric=job.cell.numeric,
            seed=job.cell.seed,
            store=BlockStore(job.root),
            feed=job.how.feed,
            report=report,
            note=notes.append,
            checkpoint_seconds=checkpoint_interval(),
            place=job.place,
        )
    except (StorageError, OSError):
        raise
    except OWN_ERRORS as error:  # a user's own network may raise anything
        failure = Failure(stage="train", reason=one_line(error))
        results = [failure.model_copy(update={"what": task.name}) for task in job.tasks]
    spent = time.process_time() - cpu
    return BlocksOutcome(tuple(results), spent, began, time.time(), tuple(notes))


def time_some(job: BlocksJob, _: Report) -> dict[str, Load] | Failure:
    """What each block asks of a worker for one step, by its key: measured here, kept by nobody."""
    try:
        data = same_dataset(job.cell.data, job.base, job.data_digest)
        teacher, trained_on = _teacher(job.taught_by, job.base)
        return measured_loads(
            job.tasks,
            teacher=teacher,
            trained_on=trained_on,
            dataset=data,
            spec=start_of(job.cell).train,
            numeric=job.cell.numeric,
            seed=job.cell.seed,
        )
    except (StorageError, OSError):
        raise
    except OWN_ERRORS as error:  # it will come again, and be told, where the blocks are trained
        return Failure(stage="train", reason=one_line(error))


def put_together(job: GatherJob, _: Report) -> Assembly | Failure:
    """A student's first weights, written beside the blocks that they are made of."""
    try:
        teacher, trained_on = _teacher(job.taught_by, job.base)
        return gather(
            job.cell,
            job.results,
            teacher=teacher,
            trained_on=trained_on,
            dataset=dataset(job.cell.data, job.base),
            store=BlockStore(job.root),
            base=job.base,
            made=job.made,
        )
    except (StorageError, OSError):
        raise
    except OWN_ERRORS as error:  # a user's own network may raise anything
        return Failure(stage="train", what="assembling", reason=one_line(error))


def _teacher(taught_by: TrainedTeacher, base: Path) -> tuple[Student, Dataset]:
    """The trained network, and the data set that it learnt from."""
    cell = taught_by.teacher.cell
    trained_on = dataset(cell.data, base)
    network = load_student(
        cell,
        taught_by.weights,
        num_classes=len(trained_on.classes),
        in_channels=trained_on.shape[0],
        base=base,
    )
    return network, trained_on
