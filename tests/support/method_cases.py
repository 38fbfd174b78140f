"""Synthetic pairs of networks for the tests of transfer methods: shapes, features, batches."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ktbench import catalogue
from ktbench.students._contract import Features
from ktbench.transfer_methods._contract import Batch, Needs, Setting, Shapes, TransferMethod

TRAIN_SIZE = 40


def shapes(
    *stages: tuple[int, ...], classes: int = 5, embedding: int | None = 16, stem: bool = True
) -> Shapes:
    names = tuple(f"stage{i + 1}" for i in range(len(stages)))
    first = (stages[0][0] // 2 or 1, *stages[0][1:]) if len(stages[0]) == 3 else stages[0]
    return Shapes(classes, stages, names, embedding, first if stem else None)


STUDENT = shapes((4, 8, 8), (8, 4, 4), (16, 2, 2))
TEACHERS = {
    "same": STUDENT,
    "wider": shapes((8, 8, 8), (16, 4, 4), (32, 2, 2), embedding=32),
    "deeper": shapes((4, 8, 8), (4, 8, 8), (8, 4, 4), (16, 2, 2), (16, 2, 2)),
    "shallower": shapes((8, 4, 4), (16, 2, 2)),
    "larger maps": shapes((8, 12, 12), (16, 6, 6), (32, 3, 3), embedding=32),
    "smaller maps": shapes((8, 4, 4), (16, 2, 2), (32, 1, 1), embedding=32),
    "tokens": shapes((16, 12), (16, 12), (16, 12), embedding=12),
    "tokens with a class token": shapes((17, 12), (17, 12), (17, 12), embedding=12, stem=False),
}


def setting(teacher: Shapes | None, student: Shapes = STUDENT, **changes: object) -> Setting:
    base = Setting(student, teacher, student.logits, TRAIN_SIZE, 6)
    if teacher is not None:
        table = [[1.0 / (1 + abs(t - s)) for s in range(len(student.stages))] for t in range(99)]
        rows = tuple(tuple(row) for row in table[: len(teacher.stages)])
        base = replace(base, similarity=rows)
    return replace(base, **changes)  # type: ignore[arg-type]


def features(
    of: Shapes,
    size: int = 6,
    *,
    seed: int = 0,
    scale: float = 1.0,
    dtype: torch.dtype | None = None,
) -> Features:
    """Random features that are leaves with gradient; stages are rectified pre-activations."""
    draw = torch.Generator().manual_seed(seed)

    def leaf(*shape: int, positive: bool = False) -> Tensor:
        x = scale * torch.randn(size, *shape, generator=draw)
        x = x.relu() if positive else x
        return x.to(dtype or torch.float32).requires_grad_()

    preacts = tuple(leaf(*shape) for shape in of.stages)
    return Features(
        logits=leaf(of.logits),
        stages=tuple(x.detach().relu().requires_grad_() for x in preacts),
        embedding=None if of.embedding is None else leaf(of.embedding, positive=True),
        preacts=preacts,
        stem=None if of.stem is None else leaf(*of.stem, positive=True),
    )


def tensors(of: Features) -> list[Tensor]:
    found = [of.logits, *of.stages, *of.preacts]
    return found + [x for x in (of.embedding, of.stem) if x is not None]


class Guarded:
    """Features that raise when undeclared ones are read, and remember those that were read."""

    def __init__(self, of: Features, needs: Needs) -> None:
        self._of, self._needs = of, needs
        self.read: set[str] = set()

    def __getattr__(self, name: str) -> object:
        if not getattr(self._needs, name):
            raise AssertionError(f"{name} is read and not declared")
        self.read.add(name)
        return getattr(self._of, name)


def batch(size: int = 6, *, phase: str = "train", progress: float = 0.5, classes: int = 5) -> Batch:
    return Batch(
        inputs=torch.zeros(size, 3, 8, 8),
        labels=torch.arange(size) % classes,
        indices=(torch.arange(size) * 7) % TRAIN_SIZE,
        epoch=1,
        step=3,
        progress=progress,
        seed=11,
        phase=phase,
    )


def phase_batches(method: TransferMethod, size: int = 6, classes: int = 5) -> list[Batch]:
    """Yield one batch in the middle of each phase."""
    found, begin = [], 0.0
    for phase in method.phases():
        middle = (begin + phase.until) / 2
        found.append(batch(size, phase=phase.name, progress=middle, classes=classes))
        begin = phase.until
    return found


def build(name: str, settings: dict[str, Any], at: Setting, seed: int = 0) -> TransferMethod | str:
    """Build a method at a pair of shapes; return it, or the reason against it."""
    config = catalogue.method_config(name, settings)
    kind = catalogue.method(name)
    reason = kind.incompatible(config, at)
    if reason is not None:
        return reason
    torch.manual_seed(seed)
    return kind(config, at)


def possible(
    name: str, settings: dict[str, Any], teacher: str = "same", **changes: Any
) -> tuple[TransferMethod, Setting]:
    """Build a method that must be buildable at a pair of shapes."""
    at = setting(TEACHERS[teacher], **changes)
    method = build(name, settings, at)
    assert not isinstance(method, str), method
    return method, at
