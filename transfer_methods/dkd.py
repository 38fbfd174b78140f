"""Decoupled distillation: separate weights for the target class and for all other classes.

Zhao et al.: Decoupled Knowledge Distillation, CVPR 2022, equation 7.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ktbench.transfer_methods import _checks
from ktbench.transfer_methods._common import Distillation, frozen, seen
from ktbench.transfer_methods._contract import Batch, Features, Needs
from ktbench.transfer_methods._logits import prepared


@dataclass(frozen=True, slots=True)
class Config:
    """The published settings for CIFAR-100; beta there is 2, 6 or 8 with the pair of networks."""

    ce_weight: float = 1.0
    """Weight of the cross-entropy with the labels."""
    alpha: float = 1.0
    """Weight of the target class's part."""
    beta: float = 8.0
    """Weight of the other classes' part."""
    temperature: float = 4.0
    """T: both sides' logits are divided by it; both parts are multiplied by its square."""
    warmup: float = 20 / 240
    """Share of the training over which both parts grow linearly from 0."""
    standardise: bool = False
    """Standardise both sides' logits over the classes first (Sun et al., CVPR 2024)."""

    def __post_init__(self) -> None:
        _checks.number(self, "ce_weight", "alpha", "beta", least=0)
        _checks.number(self, "temperature", above=0)
        _checks.number(self, "warmup", least=0, most=1)
        _checks.flag(self, "standardise")


def target_and_others(
    student: Tensor, teacher: Tensor, labels: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """(TCKD, NCKD) of logits (B, K), each with T^2 and averaged over samples.

    TCKD is the divergence of (target, not target), NCKD that of the softmax over the classes
    that are not the target. With one class there is nothing to tell apart, and both are 0.
    """
    if student.shape[1] == 1:
        nothing = student.mul(0).sum()
        return nothing, nothing
    pair = [_binary(z / temperature, labels) for z in (student, teacher)]
    others = [_others(z / temperature, labels).log_softmax(1) for z in (student, teacher)]
    tckd = functional.kl_div(pair[0], pair[1], reduction="batchmean", log_target=True)
    nckd = functional.kl_div(others[0], others[1], reduction="batchmean", log_target=True)
    return temperature**2 * tckd, temperature**2 * nckd


def _others(logits: Tensor, labels: Tensor) -> Tensor:
    """(B, K - 1): the logits without the target's, picked by position: a mask's size is unknown
    until the device has counted it."""
    columns = torch.arange(logits.shape[1] - 1, device=logits.device)
    return logits.gather(1, columns + (columns >= labels[:, None]))


def _binary(logits: Tensor, labels: Tensor) -> Tensor:
    """(B, 2): log-probabilities of the target and of all others together, without cancellation."""
    both = (logits.gather(1, labels[:, None])[:, 0], _others(logits, labels).logsumexp(1))
    return torch.stack(both, 1).log_softmax(1)


class Method(Distillation[Config]):
    """ce_weight * CE + warm-up * (alpha * TCKD + beta * NCKD)."""

    Config = Config

    @classmethod
    def needs(cls, config: Any) -> Needs:
        """Logits."""
        return Needs(logits=True)

    def loss(self, student: Features, teacher: Features | None, batch: Batch) -> dict[str, Tensor]:
        """The terms: ce, target, others."""
        c, logits = self.config, seen(student).logits
        ours = prepared(logits, c.standardise)
        theirs = prepared(frozen(teacher).logits, c.standardise)
        tckd, nckd = target_and_others(ours, theirs, batch.labels, c.temperature)
        grown = min(1.0, batch.progress / c.warmup) if c.warmup > 0 else 1.0
        return {
            "ce": c.ce_weight * batch.supervised(logits),
            "target": grown * c.alpha * tckd,
            "others": grown * c.beta * nckd,
        }
