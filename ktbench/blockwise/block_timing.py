"""Measures the time that blocks take on this machine, in a few steps that are not kept."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import islice
from statistics import median

import torch
from torch import Tensor

from ktbench.blockwise.block_training import BlockTraining
from ktbench.blockwise.blocks import BlockTask
from ktbench.blockwise.schedule import Load
from ktbench.blockwise.taps import AtEnd, Taps
from ktbench.blockwise.teacher_inputs import TeacherInputs
from ktbench.data import Dataset, Stream
from ktbench.networks.layout import frozen
from ktbench.networks.numeric import prepare
from ktbench.records import BlockTrain, NumericSpec
from ktbench.students._contract import Student

STEPS = 6
"""Steps to time. The first is left out, as memory is allocated and kernels are chosen in it."""


def measured_loads(
    tasks: Sequence[BlockTask],
    *,
    teacher: Student,
    dataset: Dataset,
    spec: BlockTrain,
    numeric: NumericSpec,
    seed: int,
    trained_on: Dataset | None = None,
    steps: int = STEPS,
) -> dict[str, Load]:
    """Measure the seconds of a training step per task, by its key: medians over some steps.

    A block's own time includes its share of the tries on the validation set, the prefix that of
    making the batch.
    """
    device = prepare(numeric)
    teacher.requires_grad_(False).eval().to(device)
    inputs = TeacherInputs(dataset, trained_on or dataset, device, frozen(numeric))
    stream = Stream(dataset, seed, spec.batch_size)
    taps = Taps(teacher, [task.block for task in tasks], inputs.few())
    watch = _Watch(device)
    with ExitStack() as stack, torch.no_grad():
        for task in tasks:
            training = BlockTraining(task, teacher, spec, seed, steps, device, numeric=numeric)
            stack.enter_context(taps.at(task.block, watch.at(training)))
        for indices in islice(stream.order(0), steps):
            watch.begin()
            teacher(inputs.training(stream, indices, 0))
            watch.end()
    passes = dataset.size("validation") / spec.batch_size
    tries = median(_warm(watch.whole)) * passes / (stream.steps_per_epoch * spec.splice_every)
    return {
        task.key: Load(
            own=median(_warm(watch.own[task.key])) + tries,
            prefix=median(_warm(watch.prefix[task.key])),
        )
        for task in tasks
    }


class _Watch:
    """Times a pass and, apart from it, the steps that blocks make inside it."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._began = self._elsewhere = 0.0
        self.own: dict[str, list[float]] = {}
        self.prefix: dict[str, list[float]] = {}
        self.whole: list[float] = []

    def begin(self) -> None:
        """Begin a step, with making its batch."""
        self._began, self._elsewhere = self._now(), 0.0

    def end(self) -> None:
        """End the teacher's pass."""
        self.whole.append(self._now() - self._began - self._elsewhere)

    def at(self, training: BlockTraining) -> AtEnd:
        """Return the hook for the end of a training's block."""
        name = training.task.key

        def timed_step(given: Tensor, target: Tensor) -> None:
            now = self._now()
            self.prefix.setdefault(name, []).append(now - self._began - self._elsewhere)
            training.step(given, target)
            took = self._now() - now
            self.own.setdefault(name, []).append(took)
            self._elsewhere += took

        return timed_step

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()


def _warm(values: list[float]) -> list[float]:
    return values[1:] or values
