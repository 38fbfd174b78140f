"""Training batches as a function of (seed, epoch, index): order, augmentation, normalisation."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ktbench.data.counter import counter_hash
from ktbench.records import Augmentation, canonical_json

if TYPE_CHECKING:
    from ktbench.data.dataset import Dataset

_ORDER, _CROP_Y, _CROP_X, _FLIP, _STEP = range(5)


@dataclass(frozen=True)
class Stream:
    """Training batches of one data set under one seed.

    Every batch is full: the last images of an epoch's order that do not fill one wait for the
    next epoch's order. A training set smaller than a batch is one batch.

    With `views`, epochs cycle through so many augmentations of each image, drawn from the data's
    own seed and so the same under every seed; the order still depends on the seed.
    """

    dataset: Dataset
    seed: int
    batch_size: int
    views: int | None = None

    @cached_property
    def _raw(self) -> tuple[Tensor, Tensor]:
        """Images as (N, H + 2p, W + 2p, C) uint8, padded once, and labels (N,)."""
        padding = self.augment.crop_padding
        images = self.dataset.images("train").permute(0, 2, 3, 1)
        padded = functional.pad(images, (0, 0, padding, padding, padding, padding))
        return padded.contiguous(), self.dataset.labels("train")

    @property
    def kept(self) -> tuple[Tensor, ...]:
        """Tensors from which every batch is made."""
        return self._raw

    def forget(self) -> None:
        """Drop these tensors; the next batch makes them again from the data set."""
        self.__dict__.pop("_raw", None)

    @property
    def augment(self) -> Augmentation:
        """Augmentation of the data set."""
        return self.dataset.spec.augment

    @property
    def augments(self) -> bool:
        """True where images differ from view to view."""
        return bool(self.augment.crop_padding or self.augment.flip)

    def view(self, epoch: int) -> int:
        """Return the number of an epoch's augmentation: equal numbers give equal images."""
        if not self.augments:
            return 0
        return epoch if self.views is None else epoch % self.views

    @property
    def described(self) -> str:
        """Canonical text of all that decides an input beside its index and its view."""
        drawn: list[str | int] = []
        if self.augments:
            drawn = [self.augment.canonical, *self._drawn_from]
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
        words = counter_hash(self.seed, _stream(_ORDER, epoch), np.arange(count))
        order = torch.from_numpy(np.argsort(words, kind="stable"))
        size = min(self.batch_size, count)
        return order[: self.steps_per_epoch * size].view(self.steps_per_epoch, size)

    def step_seed(self, step: int) -> int:
        """Return a 63-bit seed for the draws of a training step."""
        return int(counter_hash(self.seed, _STEP, step)) >> 1

    def inputs(self, indices: Tensor, epoch: int) -> Tensor:
        """Augmented, normalised images (B, C, H, W), float32, laid out channels-last."""
        return self.normalised(self.augmented(indices, epoch))

    def labels(self, indices: Tensor) -> Tensor:
        """Class numbers (B,)."""
        return self._raw[1][indices]

    def augmented(self, indices: Tensor, epoch: int) -> Tensor:
        """Raw images (B, H, W, C), uint8, after crop and flip."""
        padded, _ = self._raw
        if not self.augments:
            return padded[indices]
        _, height, width = self.dataset.shape
        rows, columns = self._windows(indices.numpy(), self.view(epoch), height, width)
        _, tall, wide, channels = padded.shape
        pixels = indices.view(-1, 1, 1) * (tall * wide) + rows[:, :, None] * wide
        pixels = (pixels + columns[:, None, :]).flatten().to(padded.device)
        chosen = padded.view(-1, channels).index_select(0, pixels)  # copies whole pixels
        return chosen.view(len(indices), height, width, channels)

    def normalised(self, images: Tensor) -> Tensor:
        """Convert (B, H, W, C) uint8 to (B, C, H, W) float32 with zero mean and unit variance."""
        width = images.shape[2]
        rows = images.flatten(2).to(torch.float32)  # a row at a time: a pixel is too short a loop
        rows.sub_(self.dataset.mean.repeat(width)).div_(self.dataset.std.repeat(width))
        return rows.view(images.shape).permute(0, 3, 1, 2)

    def _windows(
        self, indices: NDArray[np.int64], view: int, height: int, width: int
    ) -> tuple[Tensor, Tensor]:
        """Return rows (B, H) and columns (B, W) of each sample's crop of the padded image."""
        seed, count = self._drawn_from[1], np.uint64(2 * self.augment.crop_padding + 1)
        top = counter_hash(seed, _stream(_CROP_Y, view), indices) % count
        left = counter_hash(seed, _stream(_CROP_X, view), indices) % count
        rows = torch.from_numpy(top.astype(np.int64))[:, None] + torch.arange(height)
        columns = torch.from_numpy(left.astype(np.int64))[:, None] + torch.arange(width)
        if self.augment.flip:
            words = counter_hash(seed, _stream(_FLIP, view), indices)
            mirrored = torch.from_numpy((words >> np.uint64(63)).astype(bool))
            columns = torch.where(mirrored[:, None], columns.flip(1), columns)
        return rows, columns


def _stream(kind: int, turn: int) -> int:
    """Number the random stream of one purpose in an epoch or a view."""
    return turn * 16 + kind
