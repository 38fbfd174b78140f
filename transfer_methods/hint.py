"""FitNets' hint throughout the training, beside the task: the usual form of later comparisons.

Romero et al.: FitNets, ICLR 2015, equation 3, as Tian et al., ICLR 2020, compare it: one phase,
CE + 100 MSE. Their regressor also normalises and rectifies; here it is the convolution alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from transfer_methods import _checks
from transfer_methods._adapt import Regressor
from transfer_methods._common import (
    Distillation,
    cross_entropy,
    frozen,
    mean_square,
    seen,
    sum_of,
)
from transfer_methods._contract import Batch, Features, Needs, Setting
from transfer_methods._pairs import Pairs, check_pairs, pairs_reason, stage_pairs


@dataclass(frozen=True, slots=True)
class Config:
    """The published settings: weight 100, the middle stage."""

    ce_weight: float = 1.0
    """Of the cross-entropy with the labels."""
    weight: float = 100.0
    """Of the mean squared difference, summed over pairs."""
    pairs: Pairs = "middle"
    """Which teacher stage teaches which student stage; see `_pairs.py`."""

    def __post_init__(self) -> None:
        _checks.number(self, "ce_weight", least=0)
        _checks.number(self, "weight", above=0)
        check_pairs(self.pairs)


class Method(Distillation[Config]):
    """ce_weight * CE + weight * MSE(regressor(student stage), teacher stage)."""

    Config = Config

    def __init__(self, config: Any, setting: Setting) -> None:
        super().__init__(config, setting)
        assert setting.teacher is not None
        theirs, ours = setting.teacher.stages, setting.student.stages
        self.pairs = stage_pairs(config.pairs, setting)
        self.regressors = nn.ModuleList(Regressor(ours[s], theirs[t]) for t, s in self.pairs)

    @classmethod
    def needs(cls, config: Any) -> Needs:
        """Stages."""
        return Needs(stages=True)

    @classmethod
    def unfit(cls, config: Any, setting: Setting) -> str | None:
        """A stage that is not there."""
        return pairs_reason(config.pairs, setting)

    def loss(self, student: Features, teacher: Features | None, batch: Batch) -> dict[str, Tensor]:
        """The terms: ce, hint."""
        c, view = self.config, seen(student)
        ours, theirs = view.stages, frozen(teacher).stages
        hints = [
            mean_square(*regressor(ours[s], theirs[t]))
            for (t, s), regressor in zip(self.pairs, self.regressors, strict=True)
        ]
        return {
            "ce": c.ce_weight * cross_entropy(view.logits, batch.labels),
            "hint": c.weight * sum_of(hints),
        }
