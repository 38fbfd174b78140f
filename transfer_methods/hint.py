"""FitNets' hint throughout the training, beside the task: the usual form of later comparisons.

Romero et al.: FitNets, ICLR 2015, equation 3, as Tian et al., ICLR 2020, compare it: one phase,
CE + 100 MSE, with a regressor that normalises and rectifies, without which that weight is too much
for their learning rate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ktbench.transfer_methods import _checks
from ktbench.transfer_methods._adapt import aligned, conv_norm, width_of
from ktbench.transfer_methods._common import View, mean_square, sum_of
from ktbench.transfer_methods._contract import Batch, Setting
from ktbench.transfer_methods._paired import Paired, PairWeights
from ktbench.transfer_methods._pairs import Pairs


@dataclass(frozen=True, slots=True)
class Config(PairWeights):
    """The published settings: weight 100, the middle stage."""

    weight: float = 100.0
    """Weight of the mean squared difference, summed over pairs."""
    pairs: Pairs = "middle"
    """Pairs of a teacher stage and a student stage; see `_pairs.py`."""
    rectify: bool = True
    """End the regressor in a ReLU; not for a teacher's stage that may be negative, such as
    tokens."""

    def __post_init__(self) -> None:
        PairWeights.__post_init__(self)
        _checks.flag(self, "rectify")


class Method(Paired[Config]):
    """ce_weight * CE + weight * MSE(regressor(student stage), teacher stage)."""

    Config = Config
    term = "hint"

    def __init__(self, config: Any, setting: Setting) -> None:
        super().__init__(config, setting)
        assert setting.teacher is not None
        theirs, ours = setting.teacher.stages, setting.student.stages
        self.regressors = nn.ModuleList(self._regressor(ours[s], theirs[t]) for t, s in self.pairs)

    def _regressor(self, student: tuple[int, ...], teacher: tuple[int, ...]) -> nn.Module:
        layers = conv_norm(width_of(student), width_of(teacher))
        return nn.Sequential(layers, nn.ReLU()) if self.config.rectify else layers

    def transfer(self, student: View, teacher: View, batch: Batch) -> Tensor:
        """The sum over pairs."""
        ours, theirs = student.stages, teacher.stages
        losses = []
        for (t, s), regressor in zip(self.pairs, self.regressors, strict=True):
            mine, other = aligned(ours[s], theirs[t])
            losses.append(mean_square(regressor(mine), other))
        return sum_of(losses)
