"""Shared parts of the blockwise benchmarks: a teacher, its blocks, one side's run."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import JsonValue

from ktbench.blockwise import tasks_of
from ktbench.blockwise.schedule import Load, arrange
from ktbench.engine.on_ray import OnRay
from ktbench.records import (
    BlockResult,
    BlockRun,
    BlockTrain,
    Cell,
    DataSpec,
    Item,
    NumericSpec,
    Plan,
    Start,
    Teacher,
    TrainSpec,
)
from ktbench.runner.blockwise.division import chained
from ktbench.runner.blockwise.jobs import BlocksJob, BlocksOutcome, time_some, train_some
from ktbench.runner.data_jobs import dataset
from ktbench.runner.teacher_wave import TeacherJob, make_teacher
from ktbench.runner.trained_teacher import TrainedTeacher

DATA = DataSpec(source="digits", image_size=32, train_size=640, validation_size=64, test_size=64)
BLOCKS = BlockTrain(epochs=4, splice_every=4)
"""One try per block, which asks for about the share of the passes that the study's did: 5,000
validation images in every fifth epoch of 45,000."""


@dataclass(frozen=True)
class Subject:
    """A network whose blocks are to be trained, all of them."""

    cell: Cell
    taught_by: TrainedTeacher
    whole: BlocksJob
    """All blocks, of a worker of one thread."""


def subject(folder: Path, network: Item, train: BlockTrain = BLOCKS) -> Subject:
    """A teacher after one epoch, as no time depends on how good it is, and its blocks."""
    os.environ["KTBENCH_CACHE"] = str(folder / "cache")
    taught = Cell(
        data=DATA,
        student=network,
        method=Item(name="none"),
        seed=0,
        train=TrainSpec(epochs=1),
        numeric=NumericSpec(threads=1),
    )
    teacher = Teacher(name="T", cell=taught)
    made = make_teacher(TeacherJob(teacher, (), folder, folder), lambda _: None)
    assert isinstance(made, TrainedTeacher), made
    nested: JsonValue = {network.name: network.settings} if network.settings else network.name
    student = Item(name="blockwise", settings={"of": "T", "network": nested})
    start = Start(teacher=teacher, train=train)
    cell = taught.model_copy(update={"student": student, "start": start})
    data = dataset(cell.data, folder)
    tasks = tasks_of(cell, **data.dimensions, base=folder)
    whole = BlocksJob(cell, tasks, replace(made, notes=()), BlockRun(), folder, folder)
    return Subject(cell, whole.taught_by, whole)


def loads_of(of: Subject) -> list[Load]:
    """Measure the time that each block takes of one worker here, for one step."""
    found = time_some(of.whole, lambda _: None)
    assert isinstance(found, dict), found
    return [found[task.key] for task in of.whole.tasks]


@dataclass(frozen=True)
class Side:
    """A way to train the blocks."""

    workers: int
    how: BlockRun
    threads: int = 1

    @property
    def label(self) -> str:
        """For people."""
        schedule = self.how.schedule.replace("_", " ") if self.workers > 1 else "one after another"
        threads = f"{self.workers} x {self.threads} thread(s)"
        return f"{threads}, {self.how.feed}, {schedule}"


def trained(of: Subject, side: Side, root: Path) -> tuple[float, dict[str, str]]:
    """Seconds for all blocks by Ray workers of a side, and their digests by block.

    Ray's start and that of its workers (each has trained a block for one epoch) are on no clock.
    """
    numeric = of.cell.numeric.model_copy(update={"threads": side.threads})
    cell = of.cell.model_copy(update={"numeric": numeric})
    root.mkdir(parents=True)
    jobs = _jobs(of, side, cell, root)
    plan = Plan(name="blocks", base=str(root), cells=(cell,), blockwise=side.how)
    engine = OnRay(workers=side.workers)
    with engine.at(plan, root):
        warm = [_short(jobs[0], root / f"warm-{n}") for n in range(side.workers)]
        list(engine.run(train_some, warm, lambda *_: None))
        began = time.perf_counter()
        outcomes = [outcome for _, outcome in engine.run(train_some, jobs, lambda *_: None)]
        spent = time.perf_counter() - began
    found = {}
    for outcome in outcomes:
        assert isinstance(outcome, BlocksOutcome), outcome
        for result in outcome.results:
            assert isinstance(result, BlockResult), result
            found[result.block] = result.digest
    return spent, found


def _jobs(of: Subject, side: Side, cell: Cell, root: Path) -> list[BlocksJob]:
    """Return the packs that the runner would give to the workers of a side."""
    every = tuple(range(len(of.whole.tasks)))
    whole = replace(_some(of.whole, cell, every, root), how=side.how)
    if side.workers == 1:
        return [whole]
    if (side.how.schedule, side.how.feed) == ("contiguous", "relay"):
        chain = chained(whole, loads_of(of), side.workers)
        assert chain, "the network cannot be cut"
        return chain
    packs = arrange(loads_of(of), side.workers, side.how.schedule, side.how.feed)
    return [replace(_some(of.whole, cell, pack, root), how=side.how) for pack in packs]


def _some(job: BlocksJob, cell: Cell, pack: Sequence[int], root: Path) -> BlocksJob:
    """Some blocks of a job, in a folder of their own; the cell says with how many threads."""
    wanted = {job.tasks[number].name for number in pack}
    data = dataset(cell.data, job.base)
    tasks = tuple(t for t in tasks_of(cell, **data.dimensions, base=job.base) if t.name in wanted)
    return replace(job, cell=cell, tasks=tasks, root=root)


def _short(job: BlocksJob, root: Path) -> BlocksJob:
    """One block for one epoch, by a worker on its own: nobody hands anything on."""
    assert job.cell.start is not None
    train = job.cell.start.train.model_copy(update={"epochs": 1})
    start = job.cell.start.model_copy(update={"train": train})
    cell = job.cell.model_copy(update={"start": start})
    root.mkdir()
    return _some(replace(job, tasks=job.tasks[:1], place=None), cell, (0,), root)
