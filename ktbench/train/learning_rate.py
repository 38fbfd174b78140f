"""Learning rates as a function of progress, and the optimisers that use them."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

from ktbench.records import TrainSpec


def learning_rate(spec: TrainSpec, *, epoch: int, progress: float) -> float:
    """The rate of a step: cosine moves with every step, the others with epochs."""
    if spec.schedule == "cosine":
        return spec.lr * 0.5 * (1.0 + math.cos(math.pi * progress))
    if spec.schedule == "step":
        passed = sum(epoch >= round(m * spec.epochs) for m in spec.milestones)
        return spec.lr * spec.gamma**passed
    if spec.schedule == "exponential":
        return spec.lr * spec.gamma**epoch
    return spec.lr


def make_optimiser(spec: TrainSpec, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """A fused optimiser: one call per step, whatever the number of parameters."""
    found = list(parameters)
    if spec.optimiser == "sgd":
        return torch.optim.SGD(
            found,
            lr=spec.lr,
            momentum=spec.momentum,
            weight_decay=spec.weight_decay,
            fused=True,
        )
    kind = torch.optim.Adam if spec.optimiser == "adam" else torch.optim.AdamW
    return kind(found, lr=spec.lr, weight_decay=spec.weight_decay, fused=True)
