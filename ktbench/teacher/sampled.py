"""An ensemble of teachers, of which some are drawn at every step and averaged."""

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
"""Purpose of this draw, among all that are made from a step's seed."""


def draw_members(seed: int, count: int, sample: int) -> tuple[int, ...]:
    """Draw `sample` of `count` teachers for the step of this seed, in ascending order.

    Every subset is equally likely, and the same in every process: the teachers with the smallest
    of `count` counter-based words.
    """
    words = counter_hash(seed, _DRAW, np.arange(count))
    chosen = np.argsort(words, kind="stable")[:sample]
    return tuple(sorted(int(number) for number in chosen))


class Sampled:
    """A source that asks `sample` of its members per step, drawn by the batch's own seed.

    The features of a single drawn member are given whole. Of several only the logits' mean is
    given: their sum in the order of the members, in single precision, divided by their number (one
    teacher at random per step, or an ensemble's average: Blakeney et al., arXiv 2211.00683). A step
    costs what the drawn members cost.
    """

    def __init__(self, members: Sequence[TeacherSource], *, sample: int) -> None:
        self.members = tuple(members)
        self._sample = sample
        self._drawn: tuple[TeacherSource, ...] = ()

    @property
    def digest(self) -> str:
        """Digest of all members' weights."""
        return digest_of([member.digest for member in self.members])

    @property
    def stage_names(self) -> tuple[str, ...]:
        """The first member's names: methods that read stages have members of equal stages."""
        return self.members[0].stage_names if self._sample == 1 else ()

    def outputs(self, batch: Batch, needs: Needs) -> Features:
        """Return the features of the drawn member, or the mean of the drawn members' logits."""
        chosen = draw_members(batch.seed, len(self.members), self._sample)
        self._drawn = tuple(self.members[number] for number in chosen)
        if self._sample == 1:
            return self._drawn[0].outputs(batch, needs)
        first, *others = [m.outputs(batch, Needs(logits=True)).logits for m in self._drawn]
        with torch.no_grad():
            total = first.float()
            for logits in others:
                total = total + logits.float()
            return Features(total / len(self._drawn))

    def flops(self) -> int:
        """Return the FLOPs of the members that the last batch was given to."""
        return sum(member.flops() for member in self._drawn)

    def seconds(self) -> float:
        """Return the seconds of the members that the last batch was given to."""
        return sum(member.seconds() for member in self._drawn)
