"""What a trained replacement does to the whole network, finer than its accuracy can tell."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from ktbench.blockwise.taps import Taps
from ktbench.blockwise.teacher_inputs import Inputs
from ktbench.students._blocks import Block
from ktbench.students._contract import Student


class Divergence:
    """Kullback-Leibler divergence of the teacher with one block replaced from the teacher.

    In nats per image, of the class probabilities on the validation set. Hooks work out the block's
    own output, too, so that a call costs a pass of the teacher.
    """

    def __init__(self, teacher: Student, blocks: Sequence[Block], inputs: Inputs) -> None:
        self._teacher = teacher.requires_grad_(False).eval()
        self._inputs = inputs
        self._taps = Taps(teacher, blocks, inputs.few())
        self._own = list(self._logits())

    def of(self, block: Block, replacement: nn.Module) -> float:
        """With this module in the block's place."""
        replacement.eval()
        with self._taps.at(block, lambda given, _: replacement(given)), torch.no_grad():
            found = list(self._logits())
        sums = [
            functional.kl_div(
                theirs.double().log_softmax(1),
                own.double().log_softmax(1),
                log_target=True,
                reduction="sum",
            )
            for theirs, own in zip(found, self._own, strict=True)
        ]
        return float(sum(sums)) / sum(len(own) for own in self._own)

    def _logits(self) -> Iterator[Tensor]:
        with torch.no_grad():
            for images, _ in self._inputs.held_out("validation"):
                yield self._teacher(images)
