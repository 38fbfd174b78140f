"""Relational distillation: the student reproduces distances and angles between samples.

Park et al.: Relational Knowledge Distillation, CVPR 2019, equations 5 to 9.

Difference from the standard comparison (Tian et al., ICLR 2020). Where two samples have equal
embeddings (two vectors of zeros, for example), its code sets their distance to 1e-6 and includes it
in the mean; here the distance is 0 and is left out. Otherwise the losses are equal. `compatible:
repdistiller` follows the comparison's code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ktbench.transfer_methods import _checks
from ktbench.transfer_methods._common import OneTerm, View, Weights
from ktbench.transfer_methods._compatible import Compatible, check_compatible, is_compatible
from ktbench.transfer_methods._contract import Batch, Needs

_TINY = 1e-12
_LEAST = 1e-6


@dataclass(frozen=True, slots=True)
class Config(Weights):
    """The published settings: weight 1, distance 25, angle 50."""

    distance: float = 25.0
    """Weight of the distances' part."""
    angle: float = 50.0
    """Weight of the angles' part; it takes B^3 numbers, and their products B^3 D."""
    compatible: Compatible = "none"
    """`repdistiller`: the distance of equal samples as the comparison's code has it; see above."""

    def __post_init__(self) -> None:
        Weights.__post_init__(self)
        _checks.number(self, "distance", "angle", least=0)
        check_compatible(self)
        if self.distance == 0 and self.angle == 0:
            raise ValueError("distance and angle cannot both be 0")


def distance_loss(student: Tensor, teacher: Tensor, least: float = 0.0) -> Tensor:
    """Huber loss of all distances between samples (B, D), each side by its mean distance.

    Two samples are `least` apart or more.
    """
    return functional.smooth_l1_loss(_distances(student, least), _distances(teacher, least))


def angle_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Huber loss of the cosines of all angles that three samples (B, D) span."""
    return functional.smooth_l1_loss(_angles(student), _angles(teacher))


def _distances(x: Tensor, least: float) -> Tensor:
    """(B, B), by their mean over pairs that are apart."""
    distance: Tensor = torch.linalg.vector_norm(_differences(x), dim=2)
    if least:
        distance = distance.clamp(min=least) * (1 - torch.eye(len(x)).to(distance))
    count = (distance.detach() > 0).sum().clamp(min=1)
    return distance / (distance.sum() / count).clamp(min=_TINY)


def _angles(x: Tensor) -> Tensor:
    """(B, B, B): [j, i, k] is the cosine at sample j between the ways to i and to k."""
    ways = functional.normalize(_differences(x), dim=2)
    return ways @ ways.transpose(1, 2)


def _differences(x: Tensor) -> Tensor:
    """(B, B, D): [j, i] leads from sample j to sample i."""
    return x.unsqueeze(0) - x.unsqueeze(1)


class Method(OneTerm[Config]):
    """ce_weight * CE + weight * (distance * its loss + angle * its loss), on embeddings."""

    Config = Config

    @classmethod
    def needs(cls, config: Any) -> Needs:
        """The embedding."""
        return Needs(embedding=True)

    def transfer(self, student: View, teacher: View, batch: Batch) -> Tensor:
        """Both parts."""
        c, ours, theirs = self.config, student.embedding, teacher.embedding
        total = ours.new_zeros(())
        if c.distance > 0:
            least = _LEAST if is_compatible(c) else 0.0
            total = total + c.distance * distance_loss(ours, theirs, least)
        if c.angle > 0:
            total = total + c.angle * angle_loss(ours, theirs)
        return total
