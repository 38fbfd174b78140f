"""The jobs of blockwise distillation: blocks timed, trained and put together.

Each is a plain function from records to records, which any engine can call.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from ktbench.blockwise import BlockStore, BlockTask, Execution, gather, measured_loads, train_blocks
from ktbench.blockwise.pipeline import ChainPlace
from ktbench.blockwise.schedule import Load
from ktbench.engine.contract import Report
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
from ktbench.runner.data_jobs import dataset, same_dataset
from ktbench.runner.trained_teacher import TrainedTeacher
from ktbench.train import checkpoint_interval


@dataclass(frozen=True)
class BlocksJob:
    """Some blocks of one teacher, data set, seed and budget, to be timed or trained."""

    cell: Cell
    """A cell that begins from them."""
    tasks: tuple[BlockTask, ...]
    taught_by: TrainedTeacher
    how: BlockRun
    base: Path
    root: Path
    data_digest: str | None = None
    """Digest of the run's data: a node that has other data is refused."""
    place: ChainPlace | None = None
    """Place in a chain of workers that share one pass of the teacher."""

    @property
    def numeric(self) -> NumericSpec:
        """Numeric settings that the blocks are trained with."""
        return self.cell.numeric

    @property
    def units(self) -> int:
        """Most epochs of all blocks."""
        return start_of(self.cell).train.epochs * len(self.tasks)

    @property
    def label(self) -> str:
        """Names what is being worked on."""
        more = f" and {len(self.tasks) - 1} more" if len(self.tasks) > 1 else ""
        teacher = self.taught_by.teacher.name
        return f"{teacher}: {self.tasks[0].name}{more} / seed {self.cell.seed}"


@dataclass(frozen=True)
class BlocksOutcome:
    """Results of some blocks, in the order of the job's tasks."""

    results: tuple[BlockResult | Failure, ...]
    cpu_seconds: float = 0.0
    """Processor seconds of all threads of the process."""
    began: float = 0.0
    ended: float = 0.0
    """Seconds since 1970, by this node's clock."""
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
    execution: Execution
    """Training of its blocks: schedule, workers, time and energy."""

    @property
    def numeric(self) -> NumericSpec:
        """Numeric settings that the network is evaluated with."""
        return self.cell.numeric


def start_of(cell: Cell) -> Start:
    """Return the start of a cell that begins from blocks."""
    assert cell.start is not None
    return cell.start


def train_some(job: BlocksJob, report: Report) -> BlocksOutcome:
    """Train every block of the job; failures are outcomes, not exceptions."""
    began, cpu = time.time(), time.process_time()
    notes: list[str] = []
    try:
        data = same_dataset(job.cell.data, job.base, job.data_digest)
        results = train_blocks(
            job.tasks,
            teacher=job.taught_by.network(job.base),
            trained_on=job.taught_by.trained_on(job.base),
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
    """Measure here what each block costs a worker for one step, by its key."""
    try:
        data = same_dataset(job.cell.data, job.base, job.data_digest)
        return measured_loads(
            job.tasks,
            teacher=job.taught_by.network(job.base),
            trained_on=job.taught_by.trained_on(job.base),
            dataset=data,
            spec=start_of(job.cell).train,
            numeric=job.cell.numeric,
            seed=job.cell.seed,
        )
    except (StorageError, OSError):
        raise
    except OWN_ERRORS as error:  # it comes again when the blocks are trained, and is told there
        return Failure(stage="train", reason=one_line(error))


def put_together(job: GatherJob, _: Report) -> Assembly | Failure:
    """Write a student's first weights beside the blocks that they are made of."""
    try:
        return gather(
            job.cell,
            job.results,
            teacher=job.taught_by.network(job.base),
            trained_on=job.taught_by.trained_on(job.base),
            dataset=dataset(job.cell.data, job.base),
            store=BlockStore(job.root),
            base=job.base,
            execution=job.execution,
        )
    except (StorageError, OSError):
        raise
    except OWN_ERRORS as error:  # a user's own network may raise anything
        return Failure(stage="train", what="assembling", reason=one_line(error))
