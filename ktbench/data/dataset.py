"""Data set of a cell: three disjoint splits of raw samples with their statistics."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ktbench import catalogue
from ktbench.data import mapped
from ktbench.data.counter import counter_hash
from ktbench.data.sources import some
from ktbench.data.storage import Storage, storage_of, stored
from ktbench.records import DataSpec, KtbenchError, Preprocessing
from ktbench.students._contract import Inputs, each, parts
from ktbench.system.files import write_atomically
from ktbench.tasks._contract import (
    Arrays,
    Labels,
    OwnInputs,
    Signature,
    Source,
    Task,
    is_of_classes,
)

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
Rows = NDArray[np.int64]

_LOOKED_AT = 8
"""Number of samples per split that planning reads."""


@dataclass(frozen=True)
class Contents:
    """Summary of a data set for people, before they train on it."""

    name: str
    classes: tuple[str, ...]
    counts: dict[str, tuple[int, ...]]
    """Number of samples by split and class."""
    about: str
    """Columns chosen, where there was a choice."""
    notes: tuple[str, ...]
    """Remarks on what is left out and which classes lack samples, a line each."""
    storage: Storage | None = None
    """Place of the decoded images, and the bytes that they take; None for other samples."""


@dataclass(frozen=True)
class DataInfo:
    """Sizes of a data set for planning, from its labels and a few samples."""

    signature: Signature
    """Inputs and outputs of its networks."""
    train_size: int
    validation_size: int
    test_size: int
    contents: Contents | None = field(default=None, compare=False, repr=False)

    @property
    def num_classes(self) -> int:
        """Number of a network's outputs per sample."""
        return self.signature.outputs

    def for_network(self, spec: DataSpec, own: Preprocessing | None) -> DataInfo:
        """Return sizes as a network of its own preprocessing sees them, or raise KtbenchError."""
        if own is None:
            return self
        seen = catalogue.task(spec.task).own_inputs(own, self.signature)
        return replace(self, signature=seen.signature)


@dataclass(frozen=True)
class Dataset:
    """Raw samples (N, ...) and labels, (N,) or (N, k), in three disjoint splits."""

    spec: DataSpec
    classes: tuple[str, ...]
    splits: Mapping[str, tuple[Inputs, Tensor]] = field(repr=False)
    facts: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """Facts learnt from the training samples, such as a vocabulary."""
    own: Preprocessing | None = None
    """Preprocessing of its network; None for inputs as the data set has them."""

    def raw(self, split: Split) -> Inputs:
        """Raw samples (n, ...), as the task reads them: of images uint8, 0 to 255."""
        return self.splits[split][0]

    def some(self, split: Split, chosen: mapped.Chosen) -> Inputs:
        """Return the network's inputs of some of a split's samples, without augmentation."""
        return self.inputs(self.some_raw(split, chosen))

    def some_raw(self, split: Split, chosen: mapped.Chosen) -> Inputs:
        """Return some raw samples (B, ...)."""
        return each(self.raw(split), lambda part: mapped.some(part, chosen))

    def labels(self, split: Split, chosen: slice | Tensor = slice(None)) -> Tensor:
        """Labels of a split's samples as they are, or of some: one per prediction, (n * k,)."""
        return self.splits[split][1][chosen].flatten()

    def size(self, split: Split) -> int:
        """Number of samples."""
        return len(self.splits[split][1])

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Every tensor of the splits that is in memory, and then those of the statistics."""
        pairs = self.splits.values()
        held = [part for raw, labels in pairs for part in (*parts(raw), labels)]
        return (*(part for part in held if not mapped.is_mapped(part)), *self.statistics)

    @property
    def nbytes(self) -> int:
        """Size of all samples and labels, wherever they are kept."""
        pairs = self.splits.values()
        return sum(part.nbytes for raw, labels in pairs for part in (*parts(raw), labels))

    @cached_property
    def task(self) -> Task:
        """Task: the kind of its samples, and how networks that learn them are judged."""
        return catalogue.task(self.spec.task)

    @cached_property
    def signature(self) -> Signature:
        """Inputs and outputs of its networks."""
        return self._own_inputs.signature

    @cached_property
    def _own_inputs(self) -> OwnInputs:
        shapes = tuple(tuple(part.shape[1:]) for part in parts(self.raw("train")))
        signature = self.task.signature(len(self.classes), shapes, self.facts)
        if self.own is None:
            return OwnInputs(None, signature)
        return self.task.own_inputs(self.own, signature)

    @property
    def dimensions(self) -> dict[str, int]:
        """Sizes with which its networks are built."""
        return self.signature.dimensions

    @cached_property
    def statistics(self) -> tuple[Tensor, ...]:
        """Statistics that inputs are normalised with, from the training samples."""
        if self._own_inputs.statistics is not None:
            return self._own_inputs.statistics
        return self.task.statistics(self.raw("train"), self.facts)

    def inputs(self, raw: Inputs) -> Inputs:
        """Return the network's inputs of raw samples (B, ...), without augmentation."""
        return self.fitted(self.task.inputs(raw, self.statistics))

    def fitted(self, inputs: Inputs) -> Inputs:
        """Return normalised samples (B, ...) in the size that its network reads."""
        fit = self._own_inputs.fit
        return inputs if fit is None else fit(inputs)

    def preprocessed(self, own: Preprocessing | None) -> Dataset:
        """Return the same samples for a network of its own preprocessing, or raise KtbenchError."""
        if own == self.own:
            return self
        if self.own is not None:
            return replace(self, own=None).preprocessed(own)
        seen = replace(self, own=own)
        if seen._own_inputs.statistics is None:
            seen.__dict__["statistics"] = self.statistics
        # Worked out of the samples alone, once for all networks that read them.
        seen.__dict__["digest"] = self.digest
        return seen

    def between(self, other: Dataset) -> Callable[[Inputs], Inputs] | None:
        """Return what turns these inputs into those of another's network; None if they are equal.

        Raises ValueError for inputs that are made for another network than the other's already:
        what a resizing has cut off is gone.
        """
        if self.own not in (None, other.own):
            raise ValueError("inputs of a network's own are turned into no others")
        move = self.task.between(self.statistics, other.statistics)
        fit = other._own_inputs.fit if other.own != self.own else None
        if move is None or fit is None:
            return move or fit
        return lambda inputs: fit(move(inputs))

    @cached_property
    def digest(self) -> str:
        """16 digits over every sample, label and class name of every split."""
        return self._digest(SPLITS)

    @cached_property
    def test_digest(self) -> str:
        """16 digits over the test split: equal for all sizes of the training set."""
        return self._digest(("test",))

    def _digest(self, splits: tuple[Split, ...]) -> str:
        """Digest some splits; that of images in stores is kept beside them, as it takes long."""
        kept = self._kept_digest(splits)
        if kept is not None and kept.is_file():
            return kept.read_text()
        digest = self._digested(splits)
        if kept is not None:
            with suppress(KtbenchError):  # a store that may only be read
                write_atomically(kept, digest)
        return digest

    def _kept_digest(self, splits: tuple[Split, ...]) -> Path | None:
        """Return the file of a digest, named by all that it depends on; None without stores."""
        state = hashlib.sha256("\0".join(self.classes).encode())
        folders: list[Path] = []
        for name in splits:
            raw, labels = self.splits[name]
            stores = [mapped.folder_of(part) for part in parts(raw)]
            folders += [folder for folder in stores if folder is not None]
            state.update(f"{name}{[folder and folder.name for folder in stores]}".encode())
            state.update(np.ascontiguousarray(labels.numpy()).data)
        if len(folders) != len(splits):
            return None
        return folders[0] / f"digest-{state.hexdigest()[:16]}"

    def _digested(self, splits: tuple[Split, ...]) -> str:
        state = hashlib.sha256("\0".join(self.classes).encode())
        for name in splits:
            raw, labels = self.splits[name]
            for part in parts(raw):
                state.update(f"{name}{tuple(part.shape)}".encode())
                rows = mapped.rows_per_chunk(part)
                for start in range(0, len(part), rows):
                    chunk = mapped.some(part, slice(start, start + rows))
                    state.update(np.ascontiguousarray(chunk.numpy()).data)
            state.update(np.ascontiguousarray(labels.numpy()).data)
        return state.hexdigest()[:16]


def load(spec: DataSpec, base: Path) -> Dataset:
    """Load the data set of `spec`; relative paths start from `base`.

    Images of a large one are decoded to the disk, once, and mapped (`storage`). Raises KtbenchError
    where it is missing, empty, too small, or has samples of mixed sizes.
    """
    task = catalogue.task(spec.task)
    source, rows = _opened(task, spec, base)
    splits: dict[str, tuple[Inputs, Tensor]] = {}
    images = stored(spec, base, source, rows)
    for name in SPLITS:
        origin, chosen = rows[name]
        raw = _tensors(source.read(origin, chosen)) if images is None else images[name]
        splits[name] = (raw, _labels(source.labels[origin][chosen]))
    shapes = {name: _shapes_of(raw) for name, (raw, _) in splits.items()}
    _same_shapes(task, source, rows, shapes)
    return Dataset(spec=spec, classes=source.classes, splits=splits, facts=source.facts)


def _opened(task: Task, spec: DataSpec, base: Path) -> tuple[Source, dict[str, tuple[str, Rows]]]:
    """Return a spec's source, fitted to what it may train on, and the rows of each split."""
    source = task.open(spec, base)
    rows = split_rows(spec, source.strata, task.noun)
    pool = np.arange(len(source.labels["train"]), dtype=np.int64)
    held_out = [chosen for name, (origin, chosen) in rows.items() if origin == "train" != name]
    for chosen in held_out:
        pool = np.setdiff1d(pool, chosen)
    return source.fitted("train", pool), rows


def _tensors(raw: Arrays) -> Inputs:
    if isinstance(raw, tuple):
        return tuple(torch.from_numpy(part) for part in raw)
    return torch.from_numpy(raw)


def _labels(values: Labels) -> Tensor:
    """Return labels as int64, or as float32 where they are numbers to predict."""
    return torch.from_numpy(values.astype(np.int64 if values.dtype.kind in "iu" else np.float32))


def _shapes_of(raw: Inputs) -> tuple[tuple[int, ...], ...]:
    """Return the shape of one sample of each tensor."""
    return tuple(tuple(part.shape[1:]) for part in parts(raw))


@lru_cache(maxsize=32)
def describe(spec: DataSpec, base: Path) -> DataInfo:
    """Return signature, classes and sizes, from all labels and a few samples of each split.

    A process looks once. Raises KtbenchError for what `load` would refuse without reading every
    sample.
    """
    task = catalogue.task(spec.task)
    source, rows = _opened(task, spec, base)
    train, validation, test = (len(rows[name][1]) for name in SPLITS)
    contents, shapes = _contents(task, source, rows), _looked_at(task, source, rows)
    contents = replace(contents, storage=storage_of(spec, base, source, rows, shapes[0]))
    signature = task.signature(len(source.classes), shapes, source.facts)
    return DataInfo(signature, train, validation, test, contents)


def _looked_at(
    task: Task, source: Source, rows: dict[str, tuple[str, Rows]]
) -> tuple[tuple[int, ...], ...]:
    """Return the shapes of a sample's tensors, checked on some samples from every split."""
    shapes = {}
    for name, (origin, chosen) in rows.items():
        places = np.linspace(0, len(chosen) - 1, min(_LOOKED_AT, len(chosen))).astype(np.int64)
        shapes[name] = _shapes_of(_tensors(source.read(origin, chosen[places])))
    _same_shapes(task, source, rows, shapes)
    return shapes["train"]


def _same_shapes(
    task: Task,
    source: Source,
    rows: dict[str, tuple[str, Rows]],
    shapes: dict[str, tuple[tuple[int, ...], ...]],
) -> None:
    """Raise KtbenchError when samples of one split are not like those of another."""
    examples: dict[tuple[tuple[int, ...], ...], str] = {}
    for name, shape in shapes.items():
        origin, chosen = rows[name]
        examples.setdefault(shape, source.row_name(origin, int(chosen[0])))
    if len(examples) > 1:
        task.refuse_mixed(examples)


def _contents(task: Task, source: Source, rows: dict[str, tuple[str, Rows]]) -> Contents:
    classes = source.classes if all(map(is_of_classes, source.labels.values())) else (task.noun,)
    size = len(classes)
    counts = {
        name: np.bincount(source.strata[origin][chosen], minlength=size)
        for name, (origin, chosen) in rows.items()
    }
    absent: dict[tuple[str, ...], list[str]] = {}
    for number, title in enumerate(classes):
        where = tuple(name for name in SPLITS if not counts[name][number])
        absent.setdefault(where, []).append(title)
    absent.pop((), None)
    lines = [
        f"no {task.noun} of {some(names)} in {', '.join(where)}" for where, names in absent.items()
    ]
    remarks = source.survey({name: rows[name] for name in SPLITS}) if source.survey else ()
    notes = [*source.notes, *remarks, *lines]
    of_splits: dict[str, tuple[int, ...]] = {name: tuple(counts[name].tolist()) for name in SPLITS}
    return Contents(source.name, classes, of_splits, source.about, tuple(notes))


# ---------------------------------------------------------------- splits


def split_rows(
    spec: DataSpec, labels: dict[str, Labels], noun: str = "sample"
) -> dict[str, tuple[str, Rows]]:
    """Return for each of train, validation and test the split of the source, and its rows.

    Test and validation are set apart first, so they do not depend on `train_size`. Draws are
    stratified by class and nested: a larger set of the same seed contains a smaller one but for
    the rounding of class shares.
    """
    pool = np.arange(len(labels["train"]), dtype=np.int64)
    if not len(pool):
        raise KtbenchError(f"data: the training split is empty: give a source with {noun}s")
    splits: dict[str, tuple[str, Rows]] = {}
    fractions = {"test": 0.2, "validation": 0.1}
    for name, size in (("test", spec.test_size), ("validation", spec.validation_size)):
        if name in labels:
            every = np.arange(len(labels[name]), dtype=np.int64)
            if not len(every):
                raise KtbenchError(
                    f"data: the {name} split has no {noun}s: give it some, or move its file away"
                )
            size = len(every) if size is None else size
            splits[name] = (name, _draw(labels[name], every, size, spec.split_seed, name, noun))
        else:
            size = max(1, round(fractions[name] * len(pool))) if size is None else size
            chosen = _draw(labels["train"], pool, size, spec.split_seed, name, noun)
            splits[name] = ("train", chosen)
            pool = np.setdiff1d(pool, chosen)
    size = len(pool) if spec.train_size is None else spec.train_size
    splits["train"] = ("train", _draw(labels["train"], pool, size, spec.split_seed, "train", noun))
    for name, (_, rows) in splits.items():
        if not len(rows):
            raise KtbenchError(f"data: no {noun}s are left for the {name} split: give more data")
    return splits


def _draw(labels: Labels, pool: Rows, size: int, seed: int, name: str, noun: str) -> Rows:
    """Draw `size` rows of the pool, class by class in proportion, sorted by row."""
    if size > len(pool):
        raise KtbenchError(
            f"data: {name}_size is {size}, but only {len(pool)} {noun}s are there for it"
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
