"""Scores a trained replacement by the change of the whole network's outputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from ktbench.blockwise.taps import Taps
from ktbench.blockwise.teacher_inputs import TeacherInputs
from ktbench.students._blocks import Block
from ktbench.students._contract import Student


class Divergence:
    """Kullback-Leibler divergence of the teacher with one block replaced from the teacher.

    In nats per image, of the class probabilities on the validation set; a finer score than
    accuracy. The replaced block itself is run too, so that a call costs a pass of the teacher.
    """

    def __init__(self, teacher: Student, blocks: Sequence[Block], inputs: TeacherInputs) -> None:
        self._teacher = teacher.requires_grad_(False).eval()
        self._inputs = inputs
        self._taps = Taps(teacher, blocks, inputs.few())
        self._reference = list(self._logits())

    def of(self, block: Block, replacement: nn.Module) -> float:
        """Compute the divergence with a module in the block's place."""
        replacement.eval()
        with self._taps.at(block, lambda given, _: replacement(given)), torch.no_grad():
            replaced = list(self._logits())
        sums = [
            functional.kl_div(
                logits.double().log_softmax(1),
                reference.double().log_softmax(1),
                log_target=True,
                reduction="sum",
            )
            for logits, reference in zip(replaced, self._reference, strict=True)
        ]
        return float(sum(sums)) / sum(map(len, self._reference))

    def _logits(self) -> Iterator[Tensor]:
        with torch.no_grad():
            for images, _ in self._inputs.held_out("validation"):
                yield self._teacher(images)
