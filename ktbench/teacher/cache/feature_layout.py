"""Converts features to named tensors and to rows of bytes, one per sample, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ktbench.students._contract import Features, Heads
from ktbench.transfer_methods._contract import Needs

Parts = Mapping[str, Tensor]
"""Tensors by name; the first dimension of each is the batch's."""
Bytes = NDArray[np.uint8]
MASK = "mask"
"""The one part that holds no numbers: bool."""


def parts_of(features: Features, needs: Needs) -> dict[str, Tensor]:
    """Return the needed tensors that the network shows, and the logits in any case."""
    parts = {"logits": features.logits}
    if needs.embedding and features.embedding is not None:
        parts["embedding"] = features.embedding
    if needs.stem and features.stem is not None:
        parts["stem"] = features.stem
    if needs.stages:
        parts |= {f"stage{i}": stage for i, stage in enumerate(features.stages)}
    if needs.preacts:
        parts |= {f"preact{i}": preact for i, preact in enumerate(features.preacts)}
    if needs.sums:
        parts |= {f"sum{i}": each for i, each in enumerate(features.sums)}
    if needs.attentions:
        for i, heads in enumerate(features.attentions):
            parts |= {f"{name}{i}": each for name, each in heads._asdict().items()}
    if needs.mask and features.mask is not None:
        parts[MASK] = features.mask
    return parts


_PER_PREDICTION = ("logits", "classes", "counts")
"""Parts with a row per prediction, of which a sample may have several."""


def by_sample(parts: Parts, samples: int) -> dict[str, Tensor]:
    """Return parts whose first dimension is the samples': rows of one sample go together."""
    return {
        name: part if len(part) == samples else part.reshape(samples, -1, *part.shape[1:])
        for name, part in parts.items()
    }


def by_prediction(parts: Parts) -> dict[str, Tensor]:
    """Return the parts that `by_sample` was given."""
    return {
        name: part.flatten(0, 1) if name in _PER_PREDICTION and part.dim() == 3 else part
        for name, part in parts.items()
    }


def features_of(parts: Parts) -> Features:
    """Return the features that named tensors stand for."""

    def numbered(kind: str) -> tuple[Tensor, ...]:
        count = sum(name.startswith(kind) for name in parts)
        return tuple(parts[f"{kind}{i}"] for i in range(count))

    return Features(
        logits=parts["logits"],
        stages=numbered("stage"),
        embedding=parts.get("embedding"),
        preacts=numbered("preact"),
        stem=parts.get("stem"),
        sums=numbered("sum"),
        attentions=tuple(map(Heads, *map(numbered, Heads._fields))),
        mask=parts.get(MASK),
    )


@dataclass(frozen=True)
class Slot:
    """One tensor's place in a row: a sample's memory, as the network laid it out.

    Sizes and strides are a sample's, in elements; `start` and `stop` are bytes of the row.
    """

    name: str
    dtype: torch.dtype
    size: tuple[int, ...]
    stride: tuple[int, ...]
    start: int
    stop: int

    def tensor(self, raw: Bytes) -> Tensor:
        """Return the tensor (B, ...) whose samples' memory is `raw` (B, stop - start)."""
        flat = torch.from_numpy(raw).view(self.dtype)
        return flat.as_strided((len(raw), *self.size), (flat.shape[1], *self.stride))


@dataclass(frozen=True)
class RowLayout:
    """The slots of a row."""

    slots: tuple[Slot, ...]

    @classmethod
    def of(cls, parts: Parts) -> RowLayout | None:
        """Return the layout of tensors; None where samples are not consecutive in memory."""
        slots, start = list[Slot](), 0
        for name, part in parts.items():
            if not _is_dense(part):
                return None
            stop = start + part[0].numel() * part.element_size()
            shape = tuple(part.shape[1:]), tuple(part.stride()[1:])
            slots.append(Slot(name, part.dtype, *shape, start, stop))
            start = stop
        return cls(tuple(slots))

    @property
    def nbytes(self) -> int:
        """Bytes of one sample."""
        return self.slots[-1].stop

    @property
    def described(self) -> list[list[str]]:
        """Everything that distinguishes layouts, for a digest."""
        return [[s.name, str(s.dtype), str(s.size), str(s.stride)] for s in self.slots]

    def rows(self, parts: Parts) -> Bytes:
        """Return the samples' memory (B, nbytes), part after part."""
        columns = []
        for slot in self.slots:
            part = parts[slot.name]
            width = part[0].numel()
            flat = part.as_strided((len(part), width), (width, 1)).cpu()
            columns.append(flat.view(torch.uint8).numpy())
        return np.concatenate(columns, axis=1)


def _is_dense(part: Tensor) -> bool:
    """Return whether samples are consecutive, each without gaps or overlaps."""
    samples = len(part) == 1 or part.stride(0) == part[0].numel()
    return part[0].numel() > 0 and samples and _fills(part.shape[1:], part.stride()[1:])


def _fills(size: Sequence[int], stride: Sequence[int]) -> bool:
    expected = 1
    for step, length in sorted(zip(stride, size, strict=True)):
        if length == 1:
            continue
        if step != expected:
            return False
        expected *= length
    return True
