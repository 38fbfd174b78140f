"""Similarity-preserving distillation: samples alike for the teacher are alike for the student.

Tung, Mori: Similarity-Preserving Knowledge Distillation, ICCV 2019, equations 1 to 4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn import functional

from transfer_methods._common import OneTerm, View, Weights, mean_square, sum_of
from transfer_methods._contract import Batch, Needs, Setting
from transfer_methods._pairs import Pairs, check_pairs, pairs_reason, stage_pairs


@dataclass(frozen=True, slots=True)
class Config(Weights):
    """The published settings: weight 3000, the last stage."""

    weight: float = 3000.0
    """Of the sum over pairs."""
    pairs: Pairs = "last"
    """Which teacher stage teaches which student stage; see `_pairs.py`."""

    def __post_init__(self) -> None:
        Weights.__post_init__(self)
        check_pairs(self.pairs)


def similarity_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of the row-normalised Gram matrices (B, B) of flattened stages.

    Neither width nor size need agree. Grows with B^2 and linearly with the stage.
    """
    return mean_square(_gram(student), _gram(teacher))


def _gram(stage: Tensor) -> Tensor:
    rows = stage.flatten(1)
    return functional.normalize(rows @ rows.T, dim=1)


class Method(OneTerm[Config]):
    """ce_weight * CE + weight * sum over pairs of the similarity loss."""

    Config = Config

    def __init__(self, config: Any, setting: Setting) -> None:
        super().__init__(config, setting)
        self.pairs = stage_pairs(config.pairs, setting)

    @classmethod
    def needs(cls, config: Any) -> Needs:
        """Stages."""
        return Needs(stages=True)

    @classmethod
    def unfit(cls, config: Any, setting: Setting) -> str | None:
        """A stage that is not there."""
        return pairs_reason(config.pairs, setting)

    def transfer(self, student: View, teacher: View, batch: Batch) -> Tensor:
        """The sum over pairs."""
        ours, theirs = student.stages, teacher.stages
        return sum_of([similarity_loss(ours[s], theirs[t]) for t, s in self.pairs])
