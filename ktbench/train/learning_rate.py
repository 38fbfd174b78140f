"""Learning rates as a function of progress, and the optimisers that use them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import nn

from ktbench.records import TrainSpec


def learning_rate(spec: TrainSpec, *, epoch: int, progress: float) -> float:
    """Return a step's rate: cosine and the warm-up move with every step, others with epochs."""
    rising = min(1.0, progress / spec.warmup) if spec.warmup else 1.0
    return rising * _scheduled(spec, epoch=epoch, progress=progress)


def _scheduled(spec: TrainSpec, *, epoch: int, progress: float) -> float:
    if spec.schedule == "cosine":
        return spec.lr * 0.5 * (1.0 + math.cos(math.pi * progress))
    if spec.schedule == "step":
        passed = sum(epoch >= round(m * spec.epochs) for m in spec.milestones)
        return spec.lr * spec.gamma**passed
    if spec.schedule == "exponential":
        return spec.lr * spec.gamma**epoch
    return spec.lr


SCALE = "lr_scale"
"""Key of a parameter group: the factor of the rate with which it learns."""


def make_optimiser(
    spec: TrainSpec,
    parameters: Iterable[nn.Parameter],
    scales: Mapping[nn.Parameter, float] | None = None,
) -> torch.optim.Optimizer:
    """Make a fused optimiser: one call per step and group, whatever the number of parameters.

    Parameters with factors of the rate (`scales`) are in a group for each factor.
    """
    groups: dict[float, list[nn.Parameter]] = {}
    for parameter in parameters:
        groups.setdefault((scales or {}).get(parameter, 1.0), []).append(parameter)
    moved = [{"params": members, SCALE: factor} for factor, members in groups.items()]
    if spec.optimiser == "sgd":
        return torch.optim.SGD(
            moved,
            lr=spec.lr,
            momentum=spec.momentum,
            weight_decay=spec.weight_decay,
            fused=True,
        )
    kind = torch.optim.Adam if spec.optimiser == "adam" else torch.optim.AdamW
    return kind(moved, lr=spec.lr, weight_decay=spec.weight_decay, fused=True)
