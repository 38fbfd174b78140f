"""Variational information distillation: the student predicts the teacher's stage, with a variance.

Ahn et al.: Variational Information Distillation for Knowledge Transfer, CVPR 2019, equations 5
and 6: a Gaussian with a mean that is regressed and a variance per channel, both trained.

Differences from the standard comparison (Tian et al., ICLR 2020). Its code leaves out VGG's first
stage and reads a wide ResNet's sums before BatchNorm and ReLU. Its 1x1 convolutions have no bias,
so they cannot represent a channel's mean. Here every stage counts, after its activation, and the
convolutions have a bias. `compatible: repdistiller` follows the comparison's code.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import expm1, log
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ktbench.transfer_methods import _checks
from ktbench.transfer_methods._adapt import aligned, width_of
from ktbench.transfer_methods._common import View, sum_of
from ktbench.transfer_methods._contract import Batch, Setting
from ktbench.transfer_methods._paired import ComparedWeights, Paired

_FLOOR = 1e-5


@dataclass(frozen=True, slots=True)
class Config(ComparedWeights):
    """The published settings: weight 1, variance 5 at first, all stages."""

    variance: float = 5.0
    """Variance of every channel when training begins."""

    def __post_init__(self) -> None:
        ComparedWeights.__post_init__(self)
        _checks.number(self, "variance", least=1e-3)


class Predictor(nn.Module):
    """q(teacher's stage | student's stage): three 1x1 convolutions and a variance per channel."""

    def __init__(
        self,
        student: tuple[int, ...],
        teacher: tuple[int, ...],
        *,
        variance: float,
        bias: bool = True,
    ) -> None:
        super().__init__()
        ours, theirs = width_of(student), width_of(teacher)
        self.mean = nn.Sequential(
            nn.Conv2d(ours, theirs, 1, bias=bias),
            nn.ReLU(),
            nn.Conv2d(theirs, theirs, 1, bias=bias),
            nn.ReLU(),
            nn.Conv2d(theirs, theirs, 1, bias=bias),
        )
        self.scale = nn.Parameter(torch.full((theirs,), _inverse_softplus(variance - _FLOOR)))

    @property
    def variance(self) -> Tensor:
        """(C,): softplus keeps it positive, a floor of 1e-5 keeps the division tame."""
        return functional.softplus(self.scale) + _FLOOR

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Negative log-likelihood without its constant, mean over all elements."""
        student, teacher = aligned(student, teacher)
        variance = self.variance.view(1, -1, 1, 1)
        square = (self.mean(student) - teacher).square()
        likelihood: Tensor = square / variance + variance.log()
        return 0.5 * likelihood.mean()


def _inverse_softplus(value: float) -> float:
    return value + log(-expm1(-value))


class Method(Paired[Config]):
    """ce_weight * CE + weight * sum over pairs of the negative log-likelihood."""

    Config = Config

    def __init__(self, config: Any, setting: Setting) -> None:
        super().__init__(config, setting)
        assert setting.teacher is not None
        theirs, ours = setting.teacher.stages, setting.student.stages
        bias = not self.compatible(config)
        self.predictors = nn.ModuleList(
            Predictor(ours[s], theirs[t], variance=config.variance, bias=bias)
            for t, s in self.pairs
        )

    def transfer(self, student: View, teacher: View, batch: Batch) -> Tensor:
        """The sum over pairs."""
        ours, theirs = self.maps(student), self.maps(teacher)
        pairs = zip(self.pairs, self.predictors, strict=True)
        return sum_of([predictor(ours[s], theirs[t]) for (t, s), predictor in pairs])
