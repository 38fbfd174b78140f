"""Minutes of random joins, leaves and kills lose no sample, feed none twice, and change no weight.

Small students are trained one after the other on one pool while its workers join, leave and are
killed with -9 at random. What the students' loops were fed is compared, batch by batch, with what
their streams' order says; then each is trained again under a live teacher, and the weights must be
equal. `KTBENCH_SOAK_MINUTES` says how long (2 when not given).
"""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from benchmarks._claim import Outcome
from benchmarks._pool import Lesson, OpenPool, Trouble, cluster_of
from ktbench.data import Stream
from ktbench.records import Augmentation, DataSpec, Item, KtbenchError, TrainSpec
from ktbench.students._contract import Features
from ktbench.teacher.source import TeacherSource
from ktbench.transfer_methods._contract import Batch, Needs

VARIABLE = "KTBENCH_SOAK_MINUTES"
METHODS = ("kd", "attention", "crd")
"""All read their teacher in every step."""
MEAN_S, MOST = 4.0, 4


@dataclass
class Counted:
    """A source that writes down which samples its training was fed, in order."""

    source: TeacherSource
    fed: list[tuple[int, Tensor]] = field(default_factory=list)

    @property
    def digest(self) -> str:
        """The source's."""
        return self.source.digest

    @property
    def stage_names(self) -> tuple[str, ...]:
        """The source's."""
        return self.source.stage_names

    def outputs(self, batch: Batch, needs: Needs) -> Features:
        """The source's, once they have come."""
        features = self.source.outputs(batch, needs)
        self.fed.append((batch.step, batch.indices.clone()))
        return features

    def flops(self) -> int:
        """The source's."""
        return self.source.flops()

    def seconds(self) -> float:
        """The source's."""
        return self.source.seconds()

    def exact(self, stream: Stream, epochs: int) -> bool:
        """Return whether, after the probe, every batch of every epoch came once and in order."""
        order = [row for epoch in range(epochs) for row in stream.order(epoch)]
        fed = self.fed[1:]
        return len(fed) == len(order) and all(
            step == number and torch.equal(rows, order[number])
            for number, (step, rows) in enumerate(fed)
        )


def minutes() -> float:
    """Return the duration that the variable gives."""
    text = os.environ.get(VARIABLE) or "2"
    try:
        return float(text)
    except ValueError:
        raise KtbenchError(f"{VARIABLE}={text}: must be minutes") from None


def run() -> Outcome:
    """Train until the time is over, then train the same again with a live teacher."""
    length = 60 * minutes()
    lesson = Lesson.of(
        DataSpec(source="digits", train_size=640, augment=Augmentation(crop_padding=1, flip=True)),
        teacher=Item(name="resnet14"),
        student=Item(name="resnet8", settings={"width": 0.5}),
        train=TrainSpec(epochs=8, batch_size=32),
    )
    pooled: dict[tuple[str, int], str] = {}
    exact: list[bool] = []
    samples = 0
    with tempfile.TemporaryDirectory() as folder, cluster_of(2):
        pool = OpenPool(lesson)
        trouble = Trouble(pool, seed=int(time.time()), mean_s=MEAN_S, most=MOST)
        trouble.join()
        start, number = time.monotonic(), 0
        with trouble.beside():
            while time.monotonic() - start < length:
                method, seed = METHODS[number % len(METHODS)], number // len(METHODS)
                source = pool.source(seed)
                counted = Counted(source)
                root = Path(folder, f"pool{number}")
                [made] = lesson.learn(counted, root, lesson.cell(method, seed))
                source.close()
                pooled[method, seed] = made.digest
                exact.append(counted.exact(lesson.stream(seed), lesson.train.epochs))
                samples += sum(len(rows) for _, rows in counted.fed[1:])
                number += 1
        soaked = time.monotonic() - start
        pool.end()
    with tempfile.TemporaryDirectory() as folder:
        equal = [
            lesson.learn(lesson.live(), Path(folder), lesson.cell(method, seed))[0].digest == ours
            for (method, seed), ours in pooled.items()
        ]
    expected = number * lesson.train.epochs * lesson.stream().steps_per_epoch * 32
    print(f"{soaked / 60:.1f} minutes, seed {trouble.seed}: {trouble.told()}")
    print(f"{number} students: {samples:,} samples fed, {expected:,} in their streams")
    print(f"{sum(exact)} of {number} fed every batch once and in order")
    return Outcome(
        f"{sum(equal)} of {number} students equal to live ones, {samples:,} of {expected:,} "
        f"samples fed once and in order, in {soaked / 60:.1f} minutes; {trouble.told()}",
        "all",
        all(equal) and all(exact) and samples == expected and trouble.kills > 0,
    )
