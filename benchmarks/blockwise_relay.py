"""One teacher pass that feeds every block trains them twice as fast as a pass per block.

Every 3 × 3 convolution of a network that has a smaller replacement, one epoch each, on one thread:
by relay, where each block is trained inside the pass, and by prefix, where each runs the teacher up
to itself again, one after the other. Both ways are timed in turn, in processor time, so that other
work on the machine counts for neither; the blocks must be equal bit for bit. What could be had at
most, (teacher's passes + blocks' own) / (the longest pass + blocks' own), is worked out from the
same trainings' own clocks. Batches are of CIFAR-10 where `$KTBENCH_DATA` holds it, else of noise.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks import _pair
from benchmarks._claim import Outcome
from ktbench import catalogue
from ktbench.blockwise import BlockStore, BlockTask, tasks_of, train_blocks
from ktbench.blockwise.block_trainer import Feed
from ktbench.data import Dataset
from ktbench.records import (
    BlockResult,
    BlockTrain,
    Cell,
    Item,
    NumericSpec,
    Start,
    Teacher,
    TrainSpec,
)
from ktbench.students._contract import Student

BAR = 2.0
NETWORK = "vgg16"
REPLACEMENT = "separable"
STEPS = 4
ROUNDS = 2
NUMERIC = NumericSpec(threads=1)
SPEC = BlockTrain(epochs=1, batch_size=_pair.BATCH)


def blocks_of(data: Dataset, network: str = NETWORK) -> tuple[BlockTask, ...]:
    """The blocks of a network whose replacement is smaller."""
    taught = Cell(
        data=data.spec,
        student=Item(name=network),
        method=Item(name="none"),
        seed=0,
        train=TrainSpec(epochs=1),
        numeric=NUMERIC,
    )
    settings = {"of": "t", "network": network, "replace": REPLACEMENT}
    student = Item.model_validate({"name": "blockwise", "settings": settings})
    start = Start(teacher=Teacher(name="t", cell=taught), train=SPEC)
    cell = taught.model_copy(update={"student": student, "start": start})
    return tasks_of(cell, base=".", **data.dimensions)


def teacher_of(data: Dataset, network: str = NETWORK) -> Student:
    """Untrained: no time depends on what it has learnt."""
    torch.manual_seed(0)
    return catalogue.build_student(network, {}, base=".", **data.dimensions)


def train(
    tasks: Sequence[BlockTask], data: Dataset, teacher: Student, feed: Feed
) -> tuple[float, list[BlockResult]]:
    """Processor seconds of an epoch of every block, its files included, and the blocks."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        made = train_blocks(
            tasks,
            teacher=teacher,
            dataset=data,
            spec=SPEC,
            numeric=NUMERIC,
            seed=0,
            store=BlockStore(Path(folder)),
            feed=feed,
        )
        seconds = time.process_time() - start
    found = [one for one in made if isinstance(one, BlockResult)]
    if len(found) < len(tasks):
        raise RuntimeError(f"a block failed: {made}")
    return seconds, found


def run() -> Outcome:
    """Time both ways in turn."""
    data = _pair.images(STEPS)
    tasks, teacher = blocks_of(data), teacher_of(data)
    train(tasks, _pair.images(1), teacher, "relay")  # first steps load what they need
    relay = prefix = passes = longest = own = 0.0
    for _ in range(ROUNDS):
        seconds, fed = train(tasks, data, teacher, "relay")
        relay += seconds
        seconds, alone = train(tasks, data, teacher, "prefix")
        prefix += seconds
        if [one.digest for one in fed] != [one.digest for one in alone]:
            raise RuntimeError("relay and prefix made different blocks")
        passes += sum(one.teacher_seconds for one in alone)
        longest += max(one.teacher_seconds for one in alone)
        own += sum(one.seconds for one in alone)
    ratio, most = prefix / relay, (passes + own) / (longest + own)
    steps = ROUNDS * STEPS
    print(f"{len(tasks)} blocks of {NETWORK}: prefix {prefix:.1f} s, relay {relay:.1f} s; equal")
    print(
        f"a step: passes per block {1000 * passes / steps:.0f} ms, one pass "
        f"{1000 * longest / steps:.0f} ms, all blocks' own work {1000 * own / steps:.0f} ms: "
        f"{most:.2f}x could be had"
    )
    return Outcome(f"{ratio:.2f}x of {most:.2f}x", f">= {BAR}x", ratio >= BAR)
