"""Knowledge distillation: the student learns the teacher's softened class probabilities.

Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network, 2015, section 2. The weights
are those of the standard CIFAR-100 comparison (Tian et al., ICLR 2020): 0.1 CE + 0.9 T^2 KL, with
T = 4. The loss equals that of its code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ktbench.transfer_methods import _checks
from ktbench.transfer_methods._common import Distillation, frozen, seen
from ktbench.transfer_methods._contract import Batch, Features, Needs, Phase, Scale
from ktbench.transfer_methods._logits import prepared, soft_divergence


@dataclass(frozen=True, slots=True)
class Config:
    """The published settings; with `standardise` its paper takes T 2 and weight 9."""

    ce_weight: float = 0.1
    """Weight of the cross-entropy with the labels while the teacher teaches."""
    weight: float = 0.9
    """Weight of the divergence."""
    temperature: float = 4.0
    """T: both sides' logits are divided by it; the divergence is multiplied by its square."""
    standardise: bool = False
    """Standardise both sides' logits over the classes first (Sun et al., CVPR 2024), with the
    deviation of a sample (K - 1) as their code has it; their paper writes the population's."""
    start: float = 0.0
    """Share of the training after which the teacher begins to teach."""
    end: float = 1.0
    """Share of the training after which it stops. Outside [start, end) the loss is the
    cross-entropy at weight 1, so that its scale does not fall with the divergence."""

    def __post_init__(self) -> None:
        _checks.number(self, "ce_weight", least=0)
        _checks.number(self, "weight", "temperature", above=0)
        _checks.flag(self, "standardise")
        _checks.number(self, "start", least=0, most=1)
        _checks.number(self, "end", above=0, most=1)
        if self.start >= self.end:
            raise ValueError(f"start must be below end, not {self.start:g} and {self.end:g}")


class Method(Distillation[Config]):
    """ce_weight * CE + weight * T^2 * KL(teacher || student)."""

    Config = Config

    @classmethod
    def needs(cls, config: Any) -> Needs:
        """Logits."""
        return Needs(logits=True)

    @classmethod
    def soft_targets(cls, config: Any) -> float | None:
        """T, unless the logits are standardised first."""
        return None if config.standardise else float(config.temperature)

    @classmethod
    def scale(cls, config: Any) -> Scale | None:
        """Both are divergences: their weights add up."""
        return Scale(config.ce_weight, config.weight)

    def phases(self) -> Sequence[Phase]:
        """The teacher's time, with plain training before and after it."""
        c = self.config
        before = [Phase("before", c.start, teacher=False)] if c.start > 0 else []
        after = [Phase("after", 1.0, teacher=False)] if c.end < 1 else []
        return (*before, Phase("transfer", c.end), *after)

    def loss(self, student: Features, teacher: Features | None, batch: Batch) -> dict[str, Tensor]:
        """The terms: ce, and kd while the teacher teaches."""
        c, logits = self.config, seen(student).logits
        ce = batch.supervised(logits)
        if batch.phase in ("before", "after"):
            return {"ce": ce}
        theirs = prepared(frozen(teacher).logits, c.standardise)
        kd = soft_divergence(prepared(logits, c.standardise), theirs, c.temperature)
        return {"ce": c.ce_weight * ce, "kd": c.weight * kd}
