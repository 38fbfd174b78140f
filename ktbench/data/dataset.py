"""Data set of a cell: three disjoint splits of raw images with their statistics."""

from __future__ import annotations

import hashlib
import importlib.util
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ktbench.data.counter import counter_hash
from ktbench.data.folders import folder
from ktbench.data.image_source import ImageSource, Labels, some
from ktbench.data.image_tables import hub, parquet
from ktbench.data.pixels import Pixels, refuse_mixed, resized, stack
from ktbench.records import DataSpec, KtbenchError

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
Rows = NDArray[np.int64]

_LOOKED_AT = 8
"""Number of images per split that planning decodes."""


@dataclass(frozen=True)
class Contents:
    """Summary of a data set for people, before they train on it."""

    name: str
    classes: tuple[str, ...]
    counts: dict[str, tuple[int, ...]]
    """Number of images by split and class."""
    about: str
    """Columns chosen, where there was a choice."""
    notes: tuple[str, ...]
    """Remarks on what is left out and which classes lack images, a line each."""


@dataclass(frozen=True)
class DataInfo:
    """Shape and sizes of a data set for planning, from its labels and a few images."""

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

    @property
    def dimensions(self) -> dict[str, int]:
        """Number of classes and of input channels, as a network is built with them."""
        return {"num_classes": len(self.classes), "in_channels": self.shape[0]}

    @cached_property
    def mean(self) -> Tensor:
        """Mean per channel (C,), float32, of the training images on the 0 to 255 scale."""
        return _moments(self.images("train"))[0]

    @cached_property
    def std(self) -> Tensor:
        """Standard deviation per channel (C,), float32, of the training images, likewise."""
        return _moments(self.images("train"))[1]

    def normalise(self, images: Tensor) -> Tensor:
        """Convert raw images (B, C, H, W) to float32 with zero mean and unit variance."""
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
    """Load the data set of `spec`; relative paths start from `base`.

    Raises KtbenchError where it is missing, empty, too small, or has images of mixed sizes.
    """
    source = _open_source(spec, base)
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


def _open_source(spec: DataSpec, base: Path) -> ImageSource:
    openers = {"digits": digits, "parquet": parquet, "hub": hub, "folder": folder}
    return openers[spec.source](spec, base)


@lru_cache(maxsize=32)
def describe(spec: DataSpec, base: Path) -> DataInfo:
    """Return classes, image shape and sizes, from all labels and a few images of each split.

    A process looks once. Raises KtbenchError for what `load` would refuse without decoding every
    image.
    """
    source = _open_source(spec, base)
    rows = split_rows(spec, source.labels)
    train, validation, test = (len(rows[name][1]) for name in SPLITS)
    shape, contents = _shape(source, rows), _contents(source, rows)
    return DataInfo(len(source.classes), shape, train, validation, test, contents)


def _shape(source: ImageSource, rows: dict[str, tuple[str, Rows]]) -> tuple[int, int, int]:
    """Return (C, H, W) of the images, checked on some from every split."""
    shapes = {}
    for name, (origin, chosen) in rows.items():
        places = np.linspace(0, len(chosen) - 1, min(_LOOKED_AT, len(chosen))).astype(np.int64)
        shapes[name] = source.read(origin, chosen[places]).shape[1:]
    _same_shape(source, rows, shapes)
    channels, height, width = shapes["train"]
    return int(channels), int(height), int(width)


def _same_shape(
    source: ImageSource, rows: dict[str, tuple[str, Rows]], shapes: dict[str, tuple[int, ...]]
) -> None:
    """Raise KtbenchError when images of one split are not like those of another."""
    examples: dict[tuple[int, ...], str] = {}
    for name, shape in shapes.items():
        origin, chosen = rows[name]
        examples.setdefault(shape, source.row_name(origin, int(chosen[0])))
    if len(examples) > 1:
        refuse_mixed(examples)


def _contents(source: ImageSource, rows: dict[str, tuple[str, Rows]]) -> Contents:
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
    of_splits: dict[str, tuple[int, ...]] = {name: tuple(counts[name].tolist()) for name in SPLITS}
    return Contents(source.name, source.classes, of_splits, source.about, tuple(notes))


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
    """Return scale and shift (1, C, 1, 1) from one normalisation to another; None where equal."""
    if torch.equal(source.mean, target.mean) and torch.equal(source.std, target.std):
        return None
    scale = (source.std / target.std).view(1, -1, 1, 1)
    shift = ((source.mean - target.mean) / target.std).view(1, -1, 1, 1)
    return scale, shift


# ---------------------------------------------------------------- splits


def split_rows(spec: DataSpec, labels: dict[str, NDArray[np.int64]]) -> dict[str, tuple[str, Rows]]:
    """Return for each of train, validation and test the split of the source, and its rows.

    Test and validation are set apart first, so they do not depend on `train_size`. Draws are
    stratified by class and nested: a larger set of the same seed contains a smaller one but for
    the rounding of class shares.
    """
    pool = np.arange(len(labels["train"]), dtype=np.int64)
    if not len(pool):
        raise KtbenchError("data: the training split is empty: give a source with images")
    splits: dict[str, tuple[str, Rows]] = {}
    fractions = {"test": 0.2, "validation": 0.1}
    for name, size in (("test", spec.test_size), ("validation", spec.validation_size)):
        if name in labels:
            every = np.arange(len(labels[name]), dtype=np.int64)
            size = len(every) if size is None else size
            splits[name] = (name, _draw(labels[name], every, size, spec.split_seed, name))
        else:
            size = max(1, round(fractions[name] * len(pool))) if size is None else size
            chosen = _draw(labels["train"], pool, size, spec.split_seed, name)
            splits[name] = ("train", chosen)
            pool = np.setdiff1d(pool, chosen)
    size = len(pool) if spec.train_size is None else spec.train_size
    splits["train"] = ("train", _draw(labels["train"], pool, size, spec.split_seed, "train"))
    for name, (_, rows) in splits.items():
        if not len(rows):
            raise KtbenchError(f"data: no images are left for the {name} split: give more data")
    return splits


def _draw(labels: NDArray[np.int64], pool: Rows, size: int, seed: int, name: str) -> Rows:
    """Draw `size` rows of the pool, class by class in proportion, sorted by row."""
    if size > len(pool):
        raise KtbenchError(
            f"data: {name}_size is {size}, but only {len(pool)} images are there for it"
        )
    if size == len(pool):
        return pool
    classes, counts = np.unique(labels[pool], return_counts=True)
    share = size * counts / len(pool)
    quota = np.floor(share).astype(np.int64)
    # Largest remainders take what rounding left over; ties go to the lower class.
    rest = size - int(quota.sum())
    quota[np.argsort(-(share - quota), kind="stable")[:rest]] += 1
    salt = {"test": 1, "validation": 2, "train": 3}[name]
    taken = []
    for label, count in zip(classes, quota, strict=True):
        members = pool[labels[pool] == label]
        order = np.argsort(counter_hash(seed, salt, members), kind="stable")
        taken.append(members[order[:count]])
    return np.sort(np.concatenate(taken))


# ---------------------------------------------------------------- handwritten digits


def digits(spec: DataSpec, base: Path) -> ImageSource:
    """1,797 handwritten digits of 8×8 pixels (Alpaydin and Kaynak, UCI, 1998)."""
    table = _digits_table()
    pixels: Pixels = np.rint(table[:, :64] * (255.0 / 16.0)).astype(np.uint8).reshape(-1, 1, 8, 8)

    def read(_: str, rows: Labels) -> Pixels:
        if spec.image_size is None:
            return pixels[rows]
        from PIL import Image

        images = [resized(Image.fromarray(pixels[row, 0]), spec.image_size) for row in rows]
        return stack(images, str)

    labels = {"train": table[:, 64].astype(np.int64)}
    return ImageSource("digits", tuple(str(i) for i in range(10)), labels, read)


def _digits_table() -> NDArray[np.float64]:
    """64 pixels and the class of each digit, (1797, 65).

    Read from scikit-learn's own file: importing scikit-learn takes longer than everything else
    that planning does.
    """
    spec = importlib.util.find_spec("sklearn")
    if spec is not None and spec.origin is not None:
        file = Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz"
        if file.is_file():
            return np.loadtxt(file, delimiter=",")
    from sklearn.datasets import load_digits

    bundle = load_digits()
    return np.column_stack([bundle.data, bundle.target]).astype(np.float64)
