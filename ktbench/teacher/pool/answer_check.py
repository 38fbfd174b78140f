"""Checks a worker's answer against the shapes of the network's outputs."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ktbench.records import KtbenchError
from ktbench.students._contract import Features
from ktbench.teacher.pool.messages import Request, needs_of
from ktbench.transfer_methods._contract import Shapes


@dataclass(frozen=True)
class Expected:
    """Shapes of one sample's outputs, known from the network's outline before any answer."""

    shapes: Shapes
    predictions: int = 1
    """Predictions per sample (`Signature.predictions`)."""

    def check(self, features: Features, request: Request, *, rows: int) -> None:
        """Raise KtbenchError unless every part that was requested is there, in shape and finite."""
        needs, shapes = needs_of(request.needs), self.shapes
        _check("logits", features.logits, (rows * self.predictions, shapes.logits))
        if needs.embedding and shapes.embedding is not None:
            _check("embedding", features.embedding, (rows, shapes.embedding))
        if needs.stem and shapes.stem is not None:
            _check("stem", features.stem, (rows, *shapes.stem))
        if needs.stages:
            _check_all("stages", features.stages, rows, shapes)
        if needs.preacts and shapes.preacts:
            # An activation leaves a stage's shape as it is.
            _check_all("preacts", features.preacts, rows, shapes)
        if needs.sums and features.sums:
            _check_all("sums", features.sums, rows, shapes)
        if needs.attentions:
            self._check_heads(features, rows)
        if needs.mask and shapes.mask is not None:
            _check("mask", features.mask, (rows, shapes.mask))

    def _check_heads(self, features: Features, rows: int) -> None:
        layers = self.shapes.attentions
        if len(features.attentions) != len(layers):
            raise KtbenchError(f"{len(features.attentions)} attention layers, not {len(layers)}")
        for heads, shape in zip(features.attentions, layers, strict=True):
            for name, value in heads._asdict().items():
                _check(name, value, (rows, *shape))


def _check_all(name: str, values: tuple[Tensor, ...], rows: int, shapes: Shapes) -> None:
    if len(values) != len(shapes.stages):
        raise KtbenchError(f"{len(values)} {name}, not {len(shapes.stages)}")
    for value, shape in zip(values, shapes.stages, strict=True):
        _check(name, value, (rows, *shape))


def _check(name: str, value: Tensor | None, shape: tuple[int, ...]) -> None:
    if value is None or tuple(value.shape) != shape:
        problem = "missing" if value is None else f"of shape {tuple(value.shape)}"
        raise KtbenchError(f"{name}: {problem}, not {shape}")
    # A sum is finite where every value is: one quick pass, and no mask as large as the tensor.
    if not value.sum().isfinite():
        raise KtbenchError(f"{name}: not finite")
