"""Evaluates the whole network with a replacement in the place of the teacher's block."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ktbench.blockwise.block_training import TryResult
from ktbench.blockwise.taps import Taps
from ktbench.blockwise.teacher_inputs import TeacherInputs
from ktbench.data import Split
from ktbench.students._blocks import Block
from ktbench.students._contract import Student

Run = Callable[[Tensor], Tensor]
"""Computes a replacement's output in eval mode."""


def try_replacement(
    teacher: Student, block: Block, replacement: Run, taps: Taps, inputs: TeacherInputs
) -> TryResult:
    """Evaluate a replacement on the validation set, in the place of the teacher's block.

    One pass of the teacher gives both results: the block's own output is the target, and the
    replacement's goes on through the rest of the network.
    """
    sums = _Sums()

    def replace(given: Tensor, target: Tensor) -> Tensor:
        output = replacement(given)
        sums.add(output, target)
        return output

    with taps.at(block, replace):
        accuracy = accuracy_of(teacher, inputs, "validation")
    return TryResult(accuracy, *sums.read())


class _Sums:
    """Squared error of outputs, and the variance of their targets per channel, in double."""

    def __init__(self) -> None:
        self._count = 0
        self._error: Tensor | float = 0.0
        self._first: Tensor | float = 0.0
        self._second: Tensor | float = 0.0

    def add(self, output: Tensor, target: Tensor) -> None:
        """Add a chunk of maps (B, C, H, W)."""
        self._count += target.numel() // target.shape[1]
        exact = target.double()
        self._error = self._error + (output - target).double().square().mean(1).sum()
        self._first = self._first + exact.sum((0, 2, 3))
        self._second = self._second + exact.square().sum((0, 2, 3))

    def read(self) -> tuple[float, float]:
        """Return the mean squared error, and the variance averaged over channels."""
        mean = torch.as_tensor(self._first) / self._count
        variance = torch.as_tensor(self._second) / self._count - mean.square()
        return float(self._error) / self._count, float(variance.clamp(min=0).mean())


def accuracy_of(network: Student, inputs: TeacherInputs, split: Split) -> float:
    """Return the task's accuracy on a split, in eval mode and single precision."""
    task = inputs.dataset.task
    network.eval()
    with torch.no_grad():
        per_sample = [task.per_sample(network(x), y) for x, y in inputs.held_out(split)]
    labels = inputs.dataset.labels(split).to(inputs.device)
    return task.score(torch.cat(per_sample), labels)
