"""FitNets' hint throughout the training, beside the task: the usual form of later comparisons.

Romero et al.: FitNets, ICLR 2015, equation 3, as Tian et al., ICLR 2020, compare it: one phase,
CE + 100 MSE. Their regressor also normalises and rectifies; here it is the convolution alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from transfer_methods._adapt import Regressor
from transfer_methods._common import View, mean_square, sum_of
from transfer_methods._contract import Batch, Setting
from transfer_methods._paired import Paired, PairWeights
from transfer_methods._pairs import Pairs


@dataclass(frozen=True, slots=True)
class Config(PairWeights):
    """The published settings: weight 100, the middle stage."""

    weight: float = 100.0
    """Of the mean squared difference, summed over pairs."""
    pairs: Pairs = "middle"
    """Which teacher stage teaches which student stage; see `_pairs.py`."""


class Method(Paired[Config]):
    """ce_weight * CE + weight * MSE(regressor(student stage), teacher stage)."""

    Config = Config
    term = "hint"

    def __init__(self, config: Any, setting: Setting) -> None:
        super().__init__(config, setting)
        assert setting.teacher is not None
        theirs, ours = setting.teacher.stages, setting.student.stages
        self.regressors = nn.ModuleList(Regressor(ours[s], theirs[t]) for t, s in self.pairs)

    def transfer(self, student: View, teacher: View, batch: Batch) -> Tensor:
        """The sum over pairs."""
        ours, theirs = student.stages, teacher.stages
        pairs = zip(self.pairs, self.regressors, strict=True)
        return sum_of([mean_square(*regressor(ours[s], theirs[t])) for (t, s), regressor in pairs])
