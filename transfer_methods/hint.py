"""FitNets' hint throughout the training, beside the task, as later comparisons use it.

Romero et al.: FitNets, ICLR 2015, equation 3, as in the standard comparison (Tian et al., ICLR
2020): one phase, CE + 100 MSE. The regressor ends in BatchNorm and ReLU; without them, training
diverges at that weight and the comparison's learning rate.

Differences from the comparison. Its code uses the second of the four stages of MobileNetV2 and
ResNet-50, where `middle` is the third. It reads a wide ResNet's sum before BatchNorm and ReLU,
whose negative values a regressor that ends in ReLU cannot reach. Its regressor changes the map's
size by strides and large kernels, and has a bias, which BatchNorm removes. Here the stage counts
after its activation, and sizes are made equal by pooling, which works for every pair of sizes.
`compatible: repdistiller` follows the comparison's code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ktbench.transfer_methods import _checks
from ktbench.transfer_methods._adapt import BatchNorm, aligned, conv_norm, width_of
from ktbench.transfer_methods._common import View, mean_square, sum_of
from ktbench.transfer_methods._compatible import (
    check_compatible,
    resizing_conv,
    resizing_reason,
)
from ktbench.transfer_methods._contract import Batch, Setting
from ktbench.transfer_methods._paired import ComparedWeights, Paired
from ktbench.transfer_methods._pairs import Pairs


@dataclass(frozen=True, slots=True)
class Config(ComparedWeights):
    """The published settings: weight 100, the middle stage."""

    weight: float = 100.0
    """Weight of the mean squared difference, summed over pairs."""
    pairs: Pairs = "middle"
    """Pairs of a teacher stage and a student stage; see `_pairs.py`."""
    rectify: bool = True
    """End the regressor in a ReLU; not for a teacher's stage that may be negative, such as
    tokens."""

    def __post_init__(self) -> None:
        ComparedWeights.__post_init__(self)
        check_compatible(self, "rectify")
        _checks.flag(self, "rectify")


class Method(Paired[Config]):
    """ce_weight * CE + weight * MSE(regressor(student stage), teacher stage)."""

    Config = Config
    term = "hint"
    compared = "hint"

    def __init__(self, config: Any, setting: Setting) -> None:
        super().__init__(config, setting)
        assert setting.teacher is not None
        theirs, ours = setting.teacher.stages, setting.student.stages
        self.regressors = nn.ModuleList(self._regressor(ours[s], theirs[t]) for t, s in self.pairs)

    def _regressor(self, student: tuple[int, ...], teacher: tuple[int, ...]) -> nn.Module:
        if self.compatible(self.config):
            conv = resizing_conv(student, teacher)
            return nn.Sequential(conv, BatchNorm(width_of(teacher)), nn.ReLU())
        layers = conv_norm(width_of(student), width_of(teacher))
        return nn.Sequential(layers, nn.ReLU()) if self.config.rectify else layers

    @classmethod
    def unfit(cls, config: Any, setting: Setting) -> str | None:
        """A stage that is not there, or sizes that the comparison's regressor does not join."""
        if (reason := super().unfit(config, setting)) or not cls.compatible(config):
            return reason
        assert setting.teacher is not None
        ((t, s),) = cls.paired(config, setting)
        return resizing_reason(setting.student.stages[s], setting.teacher.stages[t])

    def transfer(self, student: View, teacher: View, batch: Batch) -> Tensor:
        """The sum over pairs."""
        ours, theirs = self.maps(student), self.maps(teacher)
        losses = []
        for (t, s), regressor in zip(self.pairs, self.regressors, strict=True):
            mine, other = ours[s], theirs[t]
            if not self.compatible(self.config):
                mine, other = aligned(mine, other)
            losses.append(mean_square(regressor(mine), other))
        return sum_of(losses)
