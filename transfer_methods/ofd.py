"""Overhaul of feature distillation: compares pre-activations, down to a negative margin.

Heo et al.: A Comprehensive Overhaul of Feature Distillation, ICCV 2019, equations 1 to 4. The
margin of a channel is the mean of its negative responses. The authors compute it from the teacher's
BatchNorm; here it is the mean over the training samples seen so far, which needs only the teacher's
responses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ktbench.transfer_methods._adapt import aligned, as_map, conv_norm, width_of
from ktbench.transfer_methods._common import View, sum_of
from ktbench.transfer_methods._contract import Batch, Needs, Setting
from ktbench.transfer_methods._paired import Paired, PairWeights
from ktbench.transfer_methods._pairs import Pairs


@dataclass(frozen=True, slots=True)
class Config(PairWeights):
    """The published settings: weight 1/1000, all stages."""

    weight: float = 0.001
    """Weight of the sum over pairs; each pair's distance: sum over elements, mean over samples."""
    pairs: Pairs = "stage"
    """Pairs of a teacher stage and a student stage; see `_pairs.py`. A pair counts half of the
    next one."""


def partial_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared difference where it matters: not where student <= teacher <= 0.

    Sum over a sample's elements, mean over samples; both of one shape.
    """
    matters = (student > teacher) | (teacher > 0)
    return ((student - teacher).square() * matters).flatten(1).sum(1).mean()


class Margin(nn.Module):
    """Mean negative response per channel of all the maps that it has seen."""

    total: Tensor
    count: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(channels))
        self.register_buffer("count", torch.zeros(channels))

    def forward(self, teacher: Tensor) -> Tensor:
        """(B, C, H, W) raised to the margin where it is below."""
        negative = teacher.clamp(max=0)
        self.total += negative.sum((0, 2, 3))
        self.count += (negative < 0).sum((0, 2, 3))
        margin = self.total / self.count.clamp(min=1)
        return torch.maximum(teacher, margin.view(1, -1, 1, 1))


class Method(Paired[Config]):
    """ce_weight * CE + weight * sum of 2^(i - n) partial distances.

    A 1x1 convolution with batch normalisation connects each student stage to its teacher stage.
    """

    Config = Config

    def __init__(self, config: Any, setting: Setting) -> None:
        super().__init__(config, setting)
        assert setting.teacher is not None
        theirs, ours = setting.teacher.stages, setting.student.stages
        self.connectors = nn.ModuleList(
            conv_norm(width_of(ours[s]), width_of(theirs[t])) for t, s in self.pairs
        )
        self.margins = nn.ModuleList(Margin(width_of(theirs[t])) for t, _ in self.pairs)

    @classmethod
    def needs(cls, config: Any) -> Needs:
        """Pre-activations."""
        return Needs(preacts=True)

    def transfer(self, student: View, teacher: View, batch: Batch) -> Tensor:
        """The sum over pairs."""
        ours, theirs = student.preacts, teacher.preacts
        losses = []
        parts = zip(self.pairs, self.connectors, self.margins, strict=True)
        for i, ((t, s), connector, margin) in enumerate(parts):
            mine, other = aligned(ours[s], margin(as_map(theirs[t])))
            share = 2.0 ** (i + 1 - len(self.pairs))
            losses.append(share * partial_distance(connector(mine), other))
        return sum_of(losses)
