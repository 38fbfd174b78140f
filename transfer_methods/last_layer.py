"""Last layer: squared difference between the student's and the teacher's logits.

Ba, Caruana: Do Deep Nets Really Need to be Deep?, NeurIPS 2014, equation 1 (L2 on logits), joined
with cross-entropy as in Sharma et al., IEEE EDGE 2018, technique *last layer*.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ktbench.transfer_methods import _checks
from ktbench.transfer_methods._common import Distillation, frozen, mean_square, seen
from ktbench.transfer_methods._contract import Batch, Features, Needs
from ktbench.transfer_methods._logits import prepared


@dataclass(frozen=True, slots=True)
class Config:
    """The study's: both terms at weight 1."""

    ce_weight: float = 1.0
    """Weight of the cross-entropy with the labels."""
    weight: float = 1.0
    """Weight of the squared difference of logits."""
    standardise: bool = False
    """Standardise both sides' logits over the classes first (Sun et al., CVPR 2024)."""

    def __post_init__(self) -> None:
        _checks.number(self, "ce_weight", least=0)
        _checks.number(self, "weight", above=0)
        _checks.flag(self, "standardise")


class Method(Distillation[Config]):
    """ce_weight * CE + weight * MSE of logits, the mean over samples and classes."""

    Config = Config

    @classmethod
    def needs(cls, config: Any) -> Needs:
        """Logits."""
        return Needs(logits=True)

    def loss(self, student: Features, teacher: Features | None, batch: Batch) -> dict[str, Tensor]:
        """The terms: ce, logits."""
        c, logits = self.config, seen(student).logits
        theirs = prepared(frozen(teacher).logits, c.standardise)
        return {
            "ce": c.ce_weight * batch.supervised(logits),
            "logits": c.weight * mean_square(prepared(logits, c.standardise), theirs),
        }
