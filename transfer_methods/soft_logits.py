"""Soft logits: squared difference between both networks' softened probabilities.

Sharma, Biookaghazadeh, Li, Zhao: Are Existing Knowledge Transfer Techniques Effective for Deep
Learning with Edge Devices?, IEEE EDGE 2018; technique *soft logits*, after Hinton et al., but
with a squared difference in place of the divergence and no T^2.
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
    """The study's: 0.2 CE, T = 1 for VGG (5 for MobileNet)."""

    ce_weight: float = 0.2
    """Weight of the cross-entropy with the labels."""
    weight: float = 1.0
    """Weight of the squared difference."""
    temperature: float = 1.0
    """T: both sides' logits are divided by it."""
    standardise: bool = False
    """Standardise both sides' logits over the classes first (Sun et al., CVPR 2024)."""

    def __post_init__(self) -> None:
        _checks.number(self, "ce_weight", least=0)
        _checks.number(self, "weight", "temperature", above=0)
        _checks.flag(self, "standardise")


def soft_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Mean square of softmax(student / T) minus softmax(teacher / T); logits (B, K).

    The mean is over samples and classes.
    """
    return mean_square((student / temperature).softmax(1), (teacher / temperature).softmax(1))


class Method(Distillation[Config]):
    """ce_weight * CE + weight * MSE of the softened probabilities."""

    Config = Config

    @classmethod
    def needs(cls, config: Any) -> Needs:
        """Logits."""
        return Needs(logits=True)

    @classmethod
    def soft_targets(cls, config: Any) -> float | None:
        """T, unless the logits are standardised first."""
        return None if config.standardise else float(config.temperature)

    def loss(self, student: Features, teacher: Features | None, batch: Batch) -> dict[str, Tensor]:
        """The terms: ce, soft."""
        c, logits = self.config, seen(student).logits
        theirs = prepared(frozen(teacher).logits, c.standardise)
        soft = soft_loss(prepared(logits, c.standardise), theirs, c.temperature)
        return {
            "ce": c.ce_weight * batch.supervised(logits),
            "soft": c.weight * soft,
        }
