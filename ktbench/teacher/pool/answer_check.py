"""What a right answer looks like, known before any worker has answered."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ktbench.records import KtbenchError
from ktbench.students._contract import Features
from ktbench.teacher.pool.messages import Ask, needs_of
from ktbench.transfer_methods._contract import Shapes


@dataclass(frozen=True)
class Expected:
    """The shapes of one sample's outputs, from the network's outline."""

    shapes: Shapes

    def check(self, features: Features, ask: Ask, *, rows: int) -> None:
        """Raise KtbenchError unless every part that was asked for is there, in shape and finite."""
        needs, shapes = needs_of(ask.needs), self.shapes
        _check("logits", features.logits, (rows, shapes.logits))
        if needs.embedding and shapes.embedding is not None:
            _check("embedding", features.embedding, (rows, shapes.embedding))
        if needs.stem and shapes.stem is not None:
            _check("stem", features.stem, (rows, *shapes.stem))
        if needs.stages:
            _check_all("stages", features.stages, rows, shapes)
        if needs.preacts and shapes.preacts:
            # An activation leaves a stage's shape as it is.
            _check_all("preacts", features.preacts, rows, shapes)


def _check_all(name: str, values: tuple[Tensor, ...], rows: int, shapes: Shapes) -> None:
    if len(values) != len(shapes.stages):
        raise KtbenchError(f"{len(values)} {name}, not {len(shapes.stages)}")
    for value, shape in zip(values, shapes.stages, strict=True):
        _check(name, value, (rows, *shape))


def _check(name: str, value: Tensor | None, shape: tuple[int, ...]) -> None:
    if value is None or tuple(value.shape) != shape:
        found = "missing" if value is None else f"of shape {tuple(value.shape)}"
        raise KtbenchError(f"{name}: {found}, not {shape}")
    # A sum is finite where every value is: one quick pass, and no mask as large as the tensor.
    if not value.sum().isfinite():
        raise KtbenchError(f"{name}: not finite")
