"""The contract of tasks: what a sample is, what is learnt of it, and how a network is judged."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NoReturn, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ktbench.records import DataSpec, KtbenchError, Metric, Preprocessing, TrainSpec
from ktbench.students._contract import Inputs

Labels = NDArray[Any]
"""Labels (n,) of samples, or their row numbers: int64; numbers to predict are float32. Samples with
several predictions each have labels (n, k)."""
Arrays = NDArray[Any] | tuple[NDArray[Any], ...]
"""Raw samples (n, ...): one array, or one per input."""


@dataclass(frozen=True)
class Source:
    """Labels per split at once, and a reader of raw samples by split and rows.

    So planning reads few samples, and a small training set does not read a large data set.
    """

    name: str
    classes: tuple[str, ...]
    labels: dict[str, Labels]
    """Labels by split: `train` always; `validation` and `test` where the source has them."""
    read: Callable[[str, Labels], Arrays]
    row_name: Callable[[str, int], str] = field(default=lambda split, row: f"{split} row {row}")
    """Name of a row for people: its file, or its split and number."""
    notes: tuple[str, ...] = ()
    """Remarks on what is left out, a line each."""
    about: str = ""
    """Choices made, such as columns, for people."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Facts learnt from the training samples, such as a vocabulary."""
    fit: Callable[[str, Labels], Source] | None = None
    """Return the source as it reads once these training rows are known; None where it does not
    depend on them."""
    survey: Callable[[Mapping[str, tuple[str, Labels]]], tuple[str, ...]] | None = None
    """Look at the samples that are used, for planning; return remarks on them, a line each.

    It is given the rows of each split, as (split of the source, rows), and raises KtbenchError for
    a bad sample. None where planning looks at a few samples only.
    """
    identity: Callable[[str, Labels], Iterator[str]] | None = None
    """Yield a text per row that changes when what would be read of it does, without reading it.

    None where samples are always kept in memory; else they are maps of uint8 (n, C, H, W), which
    may be kept in a store on the disk.
    """

    @property
    def strata(self) -> dict[str, Labels]:
        """Groups by which splits are drawn in proportion: the classes, or one for other labels."""
        return {
            split: values if is_of_classes(values) else np.zeros(len(values), np.int64)
            for split, values in self.labels.items()
        }

    def fitted(self, split: str, rows: Labels) -> Source:
        """Return the source for a training set: these rows of a split."""
        return self if self.fit is None else self.fit(split, rows)


def is_of_classes(labels: Labels) -> bool:
    """Return True for labels that are one class per sample."""
    return labels.ndim == 1 and labels.dtype.kind in "iu"


@dataclass(frozen=True)
class InputSpec:
    """One tensor that a network reads: its name in exported files and its shape for one sample."""

    name: str
    shape: tuple[int, ...]
    below: int | None = None
    """Whole numbers from 0 up to, not including, this bound; None for real numbers."""

    def shape_in(self, layout: str) -> tuple[int, ...]:
        """Return the shape in a file of a layout: a map's channels are last in `NHWC`."""
        if len(self.shape) != 3 or layout == "NCHW":
            return self.shape
        return (*self.shape[1:], self.shape[0])

    @property
    def file_type(self) -> str:
        """Type of the numbers in an exported file."""
        return "float32" if self.below is None else "int32"

    def zeros(self, batch: int) -> Tensor:
        """Return blank samples (batch, ...): float32, or int64 for whole numbers."""
        kind = torch.float32 if self.below is None else torch.int64
        return torch.zeros(batch, *self.shape, dtype=kind)

    def drawn(self, batch: int, generator: torch.Generator) -> Tensor:
        """Return random samples (batch, ...): normal deviates, or evenly drawn whole numbers."""
        if self.below is None:
            return torch.randn(batch, *self.shape, generator=generator)
        return torch.randint(self.below, (batch, *self.shape), generator=generator)


@dataclass(frozen=True)
class Signature:
    """The inputs, outputs and sizes of a data set's networks: enough to build and to try one."""

    inputs: tuple[InputSpec, ...]
    outputs: int
    """Outputs per prediction: a logit per class."""
    sizes: tuple[tuple[str, int], ...]
    """Sizes that the data gives to a student's `build`, by its names for them."""
    noun: str
    """Word for one sample."""
    sized_by: str
    """Setting of a matrix that makes samples smaller."""
    raw: tuple[InputSpec, ...] = ()
    """Inputs of an exported file that itself turns raw samples into the network's (`Task.front`);
    empty where both are of one form."""
    predictions: int = 1
    """Predictions per sample: a network's logits are (B * predictions, outputs)."""
    reads: str = ""
    """Digest of what the numbers in an input stand for (a vocabulary), where they are no measures:
    weights that learnt to read others are of no use."""
    essential: tuple[str, ...] = ()
    """Names of the sizes without which no student can read such samples."""

    @cached_property
    def dimensions(self) -> dict[str, int]:
        """Sizes as keywords of a student's `build`."""
        return dict(self.sizes)

    @property
    def file_inputs(self) -> tuple[InputSpec, ...]:
        """Inputs of an exported file."""
        return self.raw or self.inputs

    @property
    def size(self) -> str:
        """Shapes of one sample for people, each once: `3×32×32`."""
        sizes = dict.fromkeys("×".join(map(str, each.shape)) for each in self.inputs)
        return " and ".join(sizes)

    @property
    def values(self) -> int:
        """Count of the numbers in one sample."""
        return sum(math.prod(each.shape) for each in self.inputs)

    def smaller(self, large: int, side: int) -> Signature | None:
        """Return the signature with maps of `side` a side; None where none is above `large`²."""
        reduced = tuple(
            replace(each, shape=(each.shape[0], *(side for _ in each.shape[1:])))
            if math.prod(each.shape[1:]) > large**2
            else each
            for each in self.inputs
        )
        return None if reduced == self.inputs else replace(self, inputs=reduced)

    def blank(self, batch: int = 1) -> Inputs:
        """Return inputs of zeros."""
        return self._made(lambda each: each.zeros(batch))

    def noise(self, batch: int = 1, seed: int = 0) -> Inputs:
        """Return random inputs, the same every time."""
        generator = torch.Generator().manual_seed(seed)
        return self._made(lambda each: each.drawn(batch, generator))

    def _made(self, make: Callable[[InputSpec], Tensor]) -> Inputs:
        made = tuple(make(each) for each in self.inputs)
        return made if len(made) > 1 else made[0]


@dataclass(frozen=True)
class OwnInputs:
    """Inputs of a network with its own preprocessing, in place of the data set's."""

    statistics: tuple[Tensor, ...] | None
    """Statistics of its inputs, as `Task.statistics`; None for the data set's own."""
    signature: Signature
    fit: Callable[[Inputs], Inputs] | None = None
    """Changes the size of normalised inputs (B, ...); None where it is the data set's."""


# ---------------------------------------------------------------- the task


@dataclass(frozen=True)
class Reading:
    """Reader of a sample for a program that has but an exported file and its sidecar."""

    function: Callable[[str, Any], Any]
    """Return a file's inputs by name, each (1, ...), from an argument and the sidecar.

    Its source is copied into that program: it may use numpy as `np`, `Path`, and what it imports
    itself."""
    argument: str
    """Word for what it is given: `picture.jpg`."""
    packages: tuple[str, ...] = ()
    """Packages that it imports."""


class Samples(Protocol):
    """The training samples of a data set, ready to be made into inputs by index and view."""

    @property
    def kept(self) -> tuple[Tensor, ...]:
        """Tensors from which every batch is made."""

    def inputs(self, indices: Tensor, view: int) -> Inputs:
        """Return the network's inputs of some samples in one view (the number of an augmentation).

        A function of the indices, the view and the seed that this was made with, and of nothing
        else: the same in every process.
        """

    def labels(self, indices: Tensor, view: int) -> Tensor:
        """Return what the outputs for these inputs are compared with, a label per prediction.

        (B,), or (B * predictions,) in the order of the samples.
        """


def objection_to_image_keys(spec: DataSpec, noun: str) -> tuple[tuple[str, ...], str] | None:
    """Return the first key of `data` that shapes images, with the reason, or None."""
    for key in ("image_column", "image_size", "fit", "augment", "keep", "decoders"):
        if getattr(spec, key) != DataSpec.model_fields[key].default:
            return (key,), f"is for images, and these are {noun}s: leave it out"
    return None


class Task(ABC):
    """Kind of a data set's samples, and how networks that learn them are trained and judged.

    A file of this folder is a task. It defines a frozen dataclass `Config` (the task's settings
    with their defaults) and a class `Learning(Task)`. The file's name is the task's name; nothing
    is registered, and nothing outside the file depends on which task it is.
    """

    noun: ClassVar[str]
    """Word for one sample."""
    metric: Metric
    """Metric that `score` gives; a task with several sets it from its settings."""
    top_class: ClassVar[bool] = False
    """True where `score` takes the number of the largest output of each row in place of
    `per_sample`: then a board has to send back no more."""
    takes_shares: ClassVar[bool] = False
    """True where `loss` also takes labels that are the classes' shares, (B, K): smoothed ones."""
    blends: ClassVar[bool] = False
    """True where inputs are one map (C, H, W), of which two may be blended; then with
    `takes_shares`."""

    def __init__(self, config: Any) -> None:
        self.config = config

    # ------------------------------------------------------------ the data

    @abstractmethod
    def open(self, spec: DataSpec, base: Path) -> Source:
        """Return the source of a spec; raises KtbenchError where it cannot be read."""

    def problem(self, spec: DataSpec, signature: Signature) -> tuple[tuple[str, ...], str] | None:
        """Return the key below `data` and what is wrong with it for such samples, or None."""
        return None

    def training_problem(self, train: TrainSpec) -> tuple[str, str] | None:
        """Return the key of `train` that does not suit such samples, with the reason, or None."""
        if train.label_smoothing and not self.takes_shares:
            return "label_smoothing", f"needs classes as labels, and these {self.noun}s have others"
        for key in ("mixup", "cutmix"):
            if getattr(train, key) is not None and not self.blends:
                return key, f"is for images, and these are {self.noun}s: leave it out"
        return None

    def refuse_mixed(self, examples: Mapping[tuple[tuple[int, ...], ...], str]) -> NoReturn:
        """Raise KtbenchError for samples of several shapes; `examples` has a row's name of each."""
        raise KtbenchError(f"data: {self.noun}s differ in size: {', '.join(examples.values())}")

    @abstractmethod
    def signature(
        self, classes: int, shapes: tuple[tuple[int, ...], ...], facts: Mapping[str, Any]
    ) -> Signature:
        """Return how networks are built; `shapes` are those of one raw sample's arrays."""

    # ------------------------------------------------------------ from samples to inputs

    def statistics(self, raw: Inputs, facts: Mapping[str, Any]) -> tuple[Tensor, ...]:
        """Return what inputs are normalised with, from the raw training samples and facts."""
        return ()

    @abstractmethod
    def inputs(self, raw: Inputs, statistics: tuple[Tensor, ...]) -> Inputs:
        """Return the network's inputs of raw samples (B, ...), without augmentation."""

    def between(
        self, source: tuple[Tensor, ...], target: tuple[Tensor, ...]
    ) -> Callable[[Inputs], Inputs] | None:
        """Return what turns inputs under some statistics into those under others; None if equal.

        Raises KtbenchError where nothing does.
        """
        return None

    def own_inputs(self, own: Preprocessing, signature: Signature) -> OwnInputs:
        """Return what a network of its own preprocessing reads in place of such samples.

        Raises KtbenchError, in one line, where no network of the task has any, or not this one.
        """
        raise KtbenchError(f"is for images, and these are {self.noun}s: leave it out")

    def augmentation(self, spec: DataSpec) -> str:
        """Return canonical text of the augmentation; empty where every view is the same."""
        return ""

    @property
    def augments(self) -> str:
        """Words for the augmentation that the task's own settings ask for; empty for none."""
        return ""

    @abstractmethod
    def samples(
        self,
        spec: DataSpec,
        raw: Inputs,
        labels: Tensor,
        statistics: tuple[Tensor, ...],
        seed: int,
    ) -> Samples:
        """Return the training samples, to be augmented by draws from `seed`."""

    # ------------------------------------------------------------ the exported file

    def front(self, statistics: tuple[Tensor, ...], facts: Mapping[str, Any]) -> nn.Module | None:
        """Return what an exported file computes before the network: raw samples to its inputs.

        It has a logarithm, up to which files stay in floats in every precision. None where a file
        does no more than `moments` says.
        """
        return None

    def moments(self, statistics: tuple[Tensor, ...]) -> tuple[Tensor, Tensor] | None:
        """Return mean and deviation per channel (C,) that an exported file normalises with.

        None where the network reads what the file is given; then `inputs` changes its type alone.
        """
        return None

    def sidecar(
        self, signature: Signature, statistics: tuple[Tensor, ...], facts: Mapping[str, Any]
    ) -> dict[str, dict[str, Any]]:
        """Return what a user of an exported file must know of each input, by its name."""
        return {}

    def files_beside(self, facts: Mapping[str, Any]) -> dict[str, str]:
        """Return files that whoever feeds an exported file needs beside it: text by name."""
        return {}

    def reading(self) -> Reading | None:
        """Return how a program reads a sample that a person has; None where people have none."""
        return None

    # ------------------------------------------------------------ loss and quality

    @abstractmethod
    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the scalar loss of a training without transfer; a label per row of outputs."""

    @abstractmethod
    def predictions(self, outputs: Tensor) -> Tensor:
        """Return what a network predicts, from its outputs: one prediction per row."""

    def agreement(self, predictions: Tensor, others: Tensor) -> float:
        """Return the share of predictions in which two networks say the same."""
        return float((predictions == others).double().mean())

    def per_sample(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return what `score` needs of some samples, (B, ...), from their outputs and labels.

        By default what a network says of each.
        """
        return self.predictions(outputs)

    @abstractmethod
    def score(self, per_sample: Tensor, labels: Tensor) -> float:
        """Return the metric over a whole split, from `per_sample` of all of its samples."""

    def beside(self, per_sample: Tensor, labels: Tensor) -> dict[str, float]:
        """Return second figures of a whole split by name: reported, never chosen by."""
        return {}

    def chance(self, signature: Signature) -> float | None:
        """Return the score of a guess, at which a failed training counts; None for 1 / classes."""
        return self.metric.chance
