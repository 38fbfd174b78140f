"""Attention transfer: the student reproduces the teacher's maps of activation strength.

Zagoruyko, Komodakis: Paying More Attention to Attention, ICLR 2017, equation 2, with the
activation-based map F_sum^p of section 3.1 (mean in place of sum, as maps are normalised).

Differences from the standard comparison (Tian et al., ICLR 2020). Its code leaves out VGG's first
stage and reads a wide ResNet's sums before BatchNorm and ReLU. Where sizes differ, it pools the
features before it computes their map. Here every stage counts, after its activation as in the
paper, and the map is computed at full size and then pooled, because averages of features can
cancel. `compatible: repdistiller` follows the comparison's code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn import functional

from ktbench.transfer_methods import _checks
from ktbench.transfer_methods._adapt import aligned, as_map, common_size, size_of
from ktbench.transfer_methods._common import View, mean_square, sum_of
from ktbench.transfer_methods._contract import Batch, Setting
from ktbench.transfer_methods._paired import ComparedWeights, Paired


@dataclass(frozen=True, slots=True)
class Config(ComparedWeights):
    """The published settings: weight 1000, p = 2, all stages.

    The weight is for images of 32x32: a mean over positions of normalised maps shrinks as their
    number grows, so that on 8x8 images a sixteenth of it does the same.
    """

    weight: float = 1000.0
    """Weight of the sum over pairs; each pair's squared difference is a mean over positions."""
    power: float = 2.0
    """p: activations count by |F|^p."""

    def __post_init__(self) -> None:
        ComparedWeights.__post_init__(self)
        _checks.number(self, "power", least=1)


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


class Method(Paired[Config]):
    """ce_weight * CE + weight * sum over pairs of the attention loss."""

    Config = Config
    term = "attention"

    @classmethod
    def unfit(cls, config: Any, setting: Setting) -> str | None:
        """A stage that is not there, or pairs that meet at a single position only."""
        if reason := super().unfit(config, setting):
            return reason
        teacher, student = setting.teacher, setting.student
        assert teacher is not None
        meeting = {
            common_size(size_of(teacher.stages[t]), size_of(student.stages[s]))
            for t, s in cls.paired(config, setting)
        }
        if meeting == {(1, 1)}:
            return "every pair of stages meets at one position, whose attention map is constant"
        return None

    def transfer(self, student: View, teacher: View, batch: Batch) -> Tensor:
        """The sum over pairs."""
        ours, theirs = self.maps(student), self.maps(teacher)
        power = self.config.power
        pairs = [(ours[s], theirs[t]) for t, s in self.pairs]
        if self.compatible(self.config):
            pairs = [aligned(*pair) for pair in pairs]
        return sum_of([attention_loss(mine, other, power) for mine, other in pairs])
