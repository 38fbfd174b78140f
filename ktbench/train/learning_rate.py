"""Learning rates as a function of progress, and the optimisers that use them."""

from __future__ import annotations

import math
from collections.abc import Iterable

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


def make_optimiser(spec: TrainSpec, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Make a fused optimiser: one call per step, whatever the number of parameters."""
    moved = list(parameters)
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
