"""Attention transfer: where the networks look.

Zagoruyko, Komodakis: Paying More Attention to Attention, ICLR 2017, equation 2, with the
activation-based map F_sum^p of section 3.1 (mean in place of sum, as maps are normalised).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn import functional

from transfer_methods import _checks
from transfer_methods._adapt import aligned, as_map
from transfer_methods._common import Distillation, cross_entropy, frozen, mean_square, seen, sum_of
from transfer_methods._contract import Batch, Features, Needs, Setting
from transfer_methods._pairs import Pairs, check_pairs, pairs_reason, stage_pairs


@dataclass(frozen=True, slots=True)
class Config:
    """The published settings: weight 1000, p = 2, all stages."""

    ce_weight: float = 1.0
    """Of the cross-entropy with the labels."""
    weight: float = 1000.0
    """Of the sum over pairs; each pair's squared difference is a mean over positions."""
    power: float = 2.0
    """p: activations count by |F|^p."""
    pairs: Pairs = "stage"
    """Which teacher stage teaches which student stage; see `_pairs.py`."""

    def __post_init__(self) -> None:
        _checks.number(self, "ce_weight", least=0)
        _checks.number(self, "weight", above=0)
        _checks.number(self, "power", least=1)
        check_pairs(self.pairs)


def attention_map(stage: Tensor, power: float) -> Tensor:
    """(B, 1, H, W): mean over channels of |F|^p. Tokens give the same by their D features."""
    x = as_map(stage)
    raised = x.square() if power == 2 else x.abs().pow(power)
    return raised.mean(1, keepdim=True)


def attention_loss(student: Tensor, teacher: Tensor, power: float = 2.0) -> Tensor:
    """Mean squared difference of the two normalised attention maps of a pair of stages.

    The maps, not the features, are pooled to the smaller size; each is divided by its norm. A
    stage without any activation has the zero map.
    """
    ours, theirs = aligned(attention_map(student, power), attention_map(teacher, power))
    return mean_square(
        functional.normalize(ours.flatten(1), dim=1), functional.normalize(theirs.flatten(1), dim=1)
    )


class Method(Distillation[Config]):
    """ce_weight * CE + weight * sum over pairs of the attention loss."""

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

    def loss(self, student: Features, teacher: Features | None, batch: Batch) -> dict[str, Tensor]:
        """The terms: ce, attention."""
        c, ours, theirs = self.config, seen(student), frozen(teacher)
        mine, other = ours.stages, theirs.stages
        terms = [attention_loss(mine[s], other[t], c.power) for t, s in self.pairs]
        return {
            "ce": c.ce_weight * cross_entropy(ours.logits, batch.labels),
            "attention": c.weight * sum_of(terms),
        }
