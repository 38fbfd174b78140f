"""Synthetic pairs of networks for the tests of transfer methods: shapes, features, batches."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ktbench import catalogue
from ktbench.students._contract import Features, Heads
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


def text_shapes(
    layers: int,
    width: int,
    *,
    heads: int = 2,
    tokens: int = 7,
    classes: int = 5,
    mask: bool = True,
    stem: bool = True,
) -> Shapes:
    """Shapes of a network that reads texts, whose stages are its layers."""
    stages = ((tokens, width),) * layers
    names = tuple(f"layer{i + 1}" for i in range(layers))
    attentions = ((heads, tokens, width // heads),) * layers
    first = stages[0] if stem else None
    seen = tokens if mask else None
    return Shapes(classes, stages, names, width, first, attentions=attentions, mask=seen)


TEXT_STUDENT = text_shapes(3, 8)
TEXT_TEACHERS = {
    "same": TEXT_STUDENT,
    "wider": text_shapes(3, 12),
    "deeper": text_shapes(7, 8),
    "shallower": text_shapes(2, 8),
    "more heads": text_shapes(3, 8, heads=4),
    "longer": text_shapes(3, 8, tokens=9),
    "without a mask": text_shapes(3, 8, mask=False),
    "without a stem": text_shapes(3, 8, stem=False),
    "maps": STUDENT,
}


def reads_tokens(name: str, settings: dict[str, Any]) -> bool:
    """Return True for methods that compare token by token, and so refuse every pair of maps."""
    kind, config = catalogue.method(name), catalogue.method_config(name, settings)
    reason = kind.incompatible(config, setting(STUDENT, STUDENT)) or ""
    return any(word in reason for word in ("tokens", "attention heads", "mask"))


def for_maps() -> tuple[str, ...]:
    """The methods of the catalogue that a pair of convolutional networks can be trained with."""
    return tuple(name for name in catalogue.methods() if not reads_tokens(name, {}))


def for_tokens() -> tuple[str, ...]:
    """The other ones."""
    return tuple(name for name in catalogue.methods() if reads_tokens(name, {}))


def student_of(name: str, settings: dict[str, Any]) -> Shapes:
    """The student that a method is tried with."""
    return TEXT_STUDENT if reads_tokens(name, settings) else STUDENT


def teachers_of(name: str, settings: dict[str, Any]) -> dict[str, Shapes]:
    """The teachers beside it."""
    return TEXT_TEACHERS if reads_tokens(name, settings) else TEACHERS


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
        attentions=tuple(Heads(leaf(*s), leaf(*s), leaf(*s)) for s in of.attentions),
        mask=None if of.mask is None else mask(size, of.mask),
    )


def mask(size: int, tokens: int) -> Tensor:
    """Texts of several lengths: the first is whole, the last a single token."""
    lengths = torch.linspace(tokens, 1, size).long()
    return torch.arange(tokens) < lengths[:, None]


def tensors(of: Features) -> list[Tensor]:
    found = [of.logits, *of.stages, *of.preacts]
    found += [part for heads in of.attentions for part in heads]
    return found + [x for x in (of.embedding, of.stem) if x is not None]


class Guarded:
    """Features that raise when undeclared ones are read, and remember those that were read."""

    def __init__(self, of: Features, needs: Needs) -> None:
        self._of, self._needs = of, needs
        self.read: set[str] = set()

    def __getattr__(self, name: str) -> object:
        if not getattr(self._needs, name):
            raise AssertionError(f"{name} is read and not declared")
        if name != "mask":  # it comes with stages and attentions, and few methods ask for it
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
    at = setting(teachers_of(name, settings)[teacher], student_of(name, settings), **changes)
    method = build(name, settings, at)
    assert not isinstance(method, str), method
    return method, at
