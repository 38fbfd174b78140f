"""Training batches as a function of (seed, epoch, index): order, augmentation, normalisation."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ktbench.data.counter import counter_hash, numbered
from ktbench.data.mixing import UNMIXED, Mixed, Mixing, smoothed
from ktbench.records import Cell, canonical_json
from ktbench.students._contract import Inputs
from ktbench.tasks._contract import Samples

if TYPE_CHECKING:
    from ktbench.data.dataset import Dataset

_ORDER, _STEP = 0, 4
"""Numbers of the random streams; those between belong to augmentations."""


@dataclass(frozen=True)
class Stream:
    """Training batches of one data set under one seed.

    Every batch is full: the last samples of an epoch's order that do not fill one wait for the
    next epoch's order. A training set smaller than a batch is one batch.

    With `views`, epochs cycle through so many augmentations of each sample, drawn from the data's
    own seed and so the same under every seed; the order still depends on the seed.

    `mixing` blends samples with others, in every view anew; `smoothing` is the share of each label
    that is spread over all classes.
    """

    dataset: Dataset
    seed: int
    batch_size: int
    views: int | None = None
    mixing: Mixing = UNMIXED
    smoothing: float = 0.0

    @classmethod
    def of(cls, dataset: Dataset, cell: Cell) -> Self:
        """Return the batches of a cell's training."""
        train = cell.train
        mixing = Mixing.of(train)
        return cls(dataset, cell.seed, train.batch_size, train.views, mixing, train.label_smoothing)

    @cached_property
    def samples(self) -> Samples:
        """The training samples, ready to be made into inputs."""
        data = self.dataset
        (raw, labels), seed = data.splits["train"], self._drawn_from[1]
        samples = data.task.samples(data.spec, raw, labels, data.statistics, seed)
        return Mixed(samples, self.mixing, seed, data.size("train")) if self.mixing else samples

    @property
    def kept(self) -> tuple[Tensor, ...]:
        """Tensors from which every batch is made."""
        return (*self.samples.kept, self.dataset.splits["train"][1])

    def forget(self) -> None:
        """Drop these tensors; the next batch makes them again from the data set."""
        self.__dict__.pop("samples", None)

    @property
    def augmentation(self) -> str:
        """Canonical text of augmentation and blends; empty where every view is the same."""
        return self.dataset.task.augmentation(self.dataset.spec) + self.mixing.text

    def view(self, epoch: int) -> int:
        """Return the number of an epoch's augmentation: equal numbers give equal inputs."""
        if not self.augmentation:
            return 0
        return epoch if self.views is None else epoch % self.views

    @property
    def described(self) -> str:
        """Canonical text of all that decides an input beside its index and its view."""
        drawn: list[str | int] = []
        if self.augmentation:
            drawn = [self.augmentation, *self._drawn_from]
        return canonical_json([self.dataset.digest, *drawn])

    @property
    def _drawn_from(self) -> tuple[str, int]:
        """Name and value of the seed of the views; their number does not change any of them."""
        if self.views is None:
            return "seed", self.seed
        return "split seed", self.dataset.spec.split_seed

    @property
    def steps_per_epoch(self) -> int:
        """Full batches in an epoch, at least one."""
        return max(1, self.dataset.size("train") // self.batch_size)

    def order(self, epoch: int) -> Tensor:
        """Return an epoch's indices (steps, batch): a permutation of the training set."""
        count = self.dataset.size("train")
        words = counter_hash(self.seed, numbered(_ORDER, epoch), np.arange(count))
        order = torch.from_numpy(np.argsort(words, kind="stable"))
        size = min(self.batch_size, count)
        return order[: self.steps_per_epoch * size].view(self.steps_per_epoch, size)

    def step_seed(self, step: int) -> int:
        """Return a 63-bit seed for the draws of a training step."""
        return int(counter_hash(self.seed, _STEP, step)) >> 1

    def inputs(self, indices: Tensor, epoch: int) -> Inputs:
        """Return the network's inputs of a batch, augmented; images are laid out channels-last."""
        return self.dataset.fitted(self.samples.inputs(indices, self.view(epoch)))

    def labels(self, indices: Tensor, epoch: int) -> Tensor:
        """Return the labels of a batch, one per prediction; of a blend that of the larger part."""
        return self.samples.labels(indices, self.view(epoch))

    def targets(self, indices: Tensor, epoch: int) -> Tensor | None:
        """Return the classes' shares of a batch's labels (B, K), or None where each is one class.

        (B * predictions, K) where a sample has several predictions.
        """
        if not self.mixing and not self.smoothing:
            return None
        view, classes = self.view(epoch), self.dataset.signature.outputs
        samples = self.samples
        if isinstance(samples, Mixed):
            return smoothed(samples.targets(indices, view, classes), self.smoothing)
        labels = functional.one_hot(samples.labels(indices, view), classes)
        return smoothed(labels.float(), self.smoothing)
