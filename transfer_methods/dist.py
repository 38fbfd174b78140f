"""DIST: the student's probabilities only have to correlate with the teacher's.

Huang et al.: Knowledge Distillation from a Stronger Teacher, NeurIPS 2022, equations 8 to 10: one
minus Pearson's correlation, of a sample's classes (inter) and of a class's samples (intra).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn import functional

from ktbench.transfer_methods import _checks
from ktbench.transfer_methods._common import Distillation, frozen, seen
from ktbench.transfer_methods._contract import Batch, Features, Needs
from ktbench.transfer_methods._logits import prepared


@dataclass(frozen=True, slots=True)
class Config:
    """The published settings for CIFAR-100; for ImageNet the temperature is 1."""

    ce_weight: float = 1.0
    """Weight of the cross-entropy with the labels."""
    inter: float = 2.0
    """Weight of the correlation over the classes of a sample."""
    intra: float = 2.0
    """Weight of the correlation over the samples of a class."""
    temperature: float = 4.0
    """T: both sides' logits are divided by it; both parts are multiplied by its square."""
    standardise: bool = False
    """Standardise both sides' logits over the classes first (Sun et al., CVPR 2024)."""

    def __post_init__(self) -> None:
        _checks.number(self, "ce_weight", "inter", "intra", least=0)
        _checks.number(self, "temperature", above=0)
        _checks.flag(self, "standardise")


def inter_intra(student: Tensor, teacher: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """(inter, intra) of logits (B, K), each times T^2.

    A row or column without spread correlates with nothing and counts as 1.
    """
    q, p = (student / temperature).softmax(1), (teacher / temperature).softmax(1)
    scale = temperature**2
    return scale * (1 - _pearson(q, p)), scale * (1 - _pearson(q.T, p.T))


def _pearson(a: Tensor, b: Tensor) -> Tensor:
    """Mean over rows of the correlation of two rows."""
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    return functional.cosine_similarity(a, b, dim=1, eps=1e-8).mean()


class Method(Distillation[Config]):
    """ce_weight * CE + inter * its loss + intra * its loss."""

    Config = Config

    @classmethod
    def needs(cls, config: Any) -> Needs:
        """Logits."""
        return Needs(logits=True)

    def loss(self, student: Features, teacher: Features | None, batch: Batch) -> dict[str, Tensor]:
        """The terms: ce, inter, intra."""
        c, logits = self.config, seen(student).logits
        theirs = prepared(frozen(teacher).logits, c.standardise)
        inter, intra = inter_intra(prepared(logits, c.standardise), theirs, c.temperature)
        return {
            "ce": c.ce_weight * batch.supervised(logits),
            "inter": c.inter * inter,
            "intra": c.intra * intra,
        }
