"""The data set that a cell sees: three disjoint splits of raw images with their statistics."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ktbench.data.contract import Source, some
from ktbench.data.pixels import refuse_mixed
from ktbench.data.source_kinds import open_source
from ktbench.data.splits import Rows, split_rows
from ktbench.records import DataSpec

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


_LOOKED_AT = 8
"""Images of each split that planning decodes."""


@dataclass(frozen=True)
class Contents:
    """What people want to know of a data set before they train on it."""

    name: str
    classes: tuple[str, ...]
    counts: dict[str, tuple[int, ...]]
    """Images by split and class."""
    about: str
    """Which columns were chosen, where there was a choice."""
    notes: tuple[str, ...]
    """What is left out, and which classes are short of images, a line each."""


@dataclass(frozen=True)
class DataInfo:
    """What planning needs to know of a data set, had from its labels and a few images."""

    num_classes: int
    shape: tuple[int, int, int]
    """(C, H, W) of one image."""
    train_size: int
    validation_size: int
    test_size: int
    contents: Contents | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Dataset:
    """Images (N, C, H, W) uint8 and labels (N,) int64 in three disjoint splits."""

    spec: DataSpec
    classes: tuple[str, ...]
    splits: dict[str, tuple[Tensor, Tensor]] = field(repr=False)

    def images(self, split: Split) -> Tensor:
        """Raw images (n, C, H, W), uint8, 0 to 255."""
        return self.splits[split][0]

    def labels(self, split: Split) -> Tensor:
        """Class numbers (n,), int64."""
        return self.splits[split][1]

    def size(self, split: Split) -> int:
        """Number of images."""
        return len(self.splits[split][1])

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        c, h, w = self.images("train").shape[1:]
        return c, h, w

    @cached_property
    def mean(self) -> Tensor:
        """Per channel (C,), float32, of the training images on the 0 to 255 scale."""
        return _moments(self.images("train"))[0]

    @cached_property
    def std(self) -> Tensor:
        """Per channel (C,), float32, of the training images on the 0 to 255 scale."""
        return _moments(self.images("train"))[1]

    def normalise(self, images: Tensor) -> Tensor:
        """Raw images (B, C, H, W) to float32 with zero mean and unit variance."""
        mean, std = self.mean.view(1, -1, 1, 1), self.std.view(1, -1, 1, 1)
        return (images.float() - mean) / std

    @cached_property
    def digest(self) -> str:
        """16 digits over every image, label and class name of every split."""
        return self._digest(SPLITS)

    @cached_property
    def test_digest(self) -> str:
        """16 digits over the test split: equal for all sizes of the training set."""
        return self._digest(("test",))

    def _digest(self, splits: tuple[Split, ...]) -> str:
        state = hashlib.sha256("\0".join(self.classes).encode())
        for name in splits:
            images, labels = self.splits[name]
            state.update(f"{name}{tuple(images.shape)}".encode())
            state.update(np.ascontiguousarray(images.numpy()).data)
            state.update(np.ascontiguousarray(labels.numpy()).data)
        return state.hexdigest()[:16]


def load(spec: DataSpec, base: Path) -> Dataset:
    """The data set of `spec`; relative paths start from `base`.

    Raises KtbenchError when it cannot be had, is empty, too small, or has images of mixed sizes.
    """
    source = open_source(spec, base)
    rows = split_rows(spec, source.labels)
    splits: dict[str, tuple[Tensor, Tensor]] = {}
    for name in SPLITS:
        origin, chosen = rows[name]
        images = torch.from_numpy(source.read(origin, chosen))
        labels = torch.from_numpy(source.labels[origin][chosen].astype(np.int64))
        splits[name] = (images, labels)
    _same_shape(
        source, rows, {name: tuple(images.shape[1:]) for name, (images, _) in splits.items()}
    )
    return Dataset(spec=spec, classes=source.classes, splits=splits)


@lru_cache(maxsize=32)
def _described(spec_json: str, base: Path) -> DataInfo:
    spec = DataSpec.model_validate_json(spec_json)
    source = open_source(spec, base)
    rows = split_rows(spec, source.labels)
    train, validation, test = (len(rows[name][1]) for name in SPLITS)
    shape, contents = _shape(source, rows), _contents(source, rows)
    return DataInfo(len(source.classes), shape, train, validation, test, contents)


def describe(spec: DataSpec, base: Path) -> DataInfo:
    """Classes, image shape and sizes, from all labels and a few images of each split.

    Raises KtbenchError for what `load` would refuse without decoding every image.
    """
    return _described(spec.model_dump_json(), base)


def _shape(source: Source, rows: dict[str, tuple[str, Rows]]) -> tuple[int, int, int]:
    """(C, H, W) of the images: of some from every split, as shapes may differ."""
    shapes = {}
    for name, (origin, chosen) in rows.items():
        places = np.linspace(0, len(chosen) - 1, min(_LOOKED_AT, len(chosen))).astype(np.int64)
        shapes[name] = source.read(origin, chosen[places]).shape[1:]
    _same_shape(source, rows, shapes)
    channels, height, width = shapes["train"]
    return int(channels), int(height), int(width)


def _same_shape(
    source: Source, rows: dict[str, tuple[str, Rows]], shapes: dict[str, tuple[int, ...]]
) -> None:
    """Raise KtbenchError when images of one split are not like those of another."""
    examples: dict[tuple[int, ...], str] = {}
    for name, shape in shapes.items():
        origin, chosen = rows[name]
        examples.setdefault(shape, source.row_name(origin, int(chosen[0])))
    if len(examples) > 1:
        refuse_mixed(examples)


def _contents(source: Source, rows: dict[str, tuple[str, Rows]]) -> Contents:
    size = len(source.classes)
    counts = {
        name: np.bincount(source.labels[origin][chosen], minlength=size)
        for name, (origin, chosen) in rows.items()
    }
    absent: dict[tuple[str, ...], list[str]] = {}
    for number, title in enumerate(source.classes):
        where = tuple(name for name in SPLITS if not counts[name][number])
        absent.setdefault(where, []).append(title)
    absent.pop((), None)
    lines = [f"no image of {some(names)} in {', '.join(where)}" for where, names in absent.items()]
    notes = [*source.notes, *lines]
    told: dict[str, tuple[int, ...]] = {name: tuple(counts[name].tolist()) for name in SPLITS}
    return Contents(source.name, source.classes, told, source.about, tuple(notes))


def _moments(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation per channel, summed exactly in integers."""
    count = images.numel() // images.shape[1]
    total = images.sum(dim=(0, 2, 3), dtype=torch.int64).double()
    squares = torch.stack(
        [channel.to(torch.int32).square().sum(dtype=torch.int64) for channel in images.unbind(1)]
    ).double()
    mean = total / count
    variance = (squares / count - mean.square()).clamp(min=0)
    return mean.float(), variance.sqrt().clamp(min=1e-3).float()


def between(source: Dataset, target: Dataset) -> tuple[Tensor, Tensor] | None:
    """Scale and shift (1, C, 1, 1) from one normalisation to another; None when they are equal."""
    if torch.equal(source.mean, target.mean) and torch.equal(source.std, target.std):
        return None
    scale = (source.std / target.std).view(1, -1, 1, 1)
    shift = ((source.mean - target.mean) / target.std).view(1, -1, 1, 1)
    return scale, shift
