"""Several teachers of which some are drawn at every step; their logits are averaged."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ktbench.data import counter_hash
from ktbench.records import digest_of
from ktbench.students._contract import Features
from ktbench.teacher.source import TeacherSource
from ktbench.transfer_methods._contract import Batch, Needs

_DRAW = 104
"""The purpose of the draw among all that are made from a step's seed."""


def drawn(seed: int, count: int, sample: int) -> tuple[int, ...]:
    """Which `sample` of `count` teachers answer the step of this seed, in ascending order.

    Every subset is equally likely, and the same in every process: the teachers with the smallest
    of `count` counter-based words.
    """
    words = counter_hash(seed, _DRAW, np.arange(count))
    chosen = np.argsort(words, kind="stable")[:sample]
    return tuple(sorted(int(number) for number in chosen))


class Sampled:
    """A source that asks `sample` of its members per step, drawn from the batch's own seed.

    A single one drawn is heard whole. Of several the logits' mean is given and nothing else: their
    sum in the order of the members, in single precision, divided by their number (one teacher at
    random per step, or an ensemble's average: Blakeney et al., arXiv 2211.00683). What a step costs
    is what the drawn ones cost.
    """

    def __init__(self, members: Sequence[TeacherSource], *, sample: int) -> None:
        self.members = tuple(members)
        self._sample = sample
        self._asked: tuple[TeacherSource, ...] = ()

    @property
    def digest(self) -> str:
        """Of all members' weights."""
        return digest_of([member.digest for member in self.members])

    @property
    def stage_names(self) -> tuple[str, ...]:
        """The first member's; methods that read stages hear members of equal stages alone."""
        return self.members[0].stage_names if self._sample == 1 else ()

    def outputs(self, batch: Batch, needs: Needs) -> Features:
        """The features of the one that was drawn, or the mean of the drawn ones' logits."""
        chosen = drawn(batch.seed, len(self.members), self._sample)
        self._asked = tuple(self.members[number] for number in chosen)
        if self._sample == 1:
            return self._asked[0].outputs(batch, needs)
        found = [member.outputs(batch, Needs(logits=True)).logits for member in self._asked]
        with torch.no_grad():
            total = found[0].float()
            for logits in found[1:]:
                total = total + logits.float()
            return Features(total / len(found))

    def flops(self) -> int:
        """Of the passes of those that the last batch was given to."""
        return sum(member.flops() for member in self._asked)

    def seconds(self) -> float:
        """As `flops`."""
        return sum(member.seconds() for member in self._asked)
