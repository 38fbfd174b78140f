"""Data sets as tensors, their three splits, and counter-based augmentation.

Images become one uint8 tensor once. What a batch looks like is a function of
(seed, epoch, indices) alone, so any process can rebuild it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ktbench.records import DataSpec, KtbenchError

Split = Literal["train", "validation", "test"]


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
        state = hashlib.sha256("\0".join(self.classes).encode())
        for name in ("train", "validation", "test"):
            images, labels = self.splits[name]
            state.update(f"{name}{tuple(images.shape)}".encode())
            state.update(np.ascontiguousarray(images.numpy()).data)
            state.update(np.ascontiguousarray(labels.numpy()).data)
        return state.hexdigest()[:16]


def _moments(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation per channel, summed exactly in integers."""
    count = images.numel() // images.shape[1]
    total = images.sum(dim=(0, 2, 3), dtype=torch.int64).double()
    squares = images.to(torch.int64).square().sum(dim=(0, 2, 3)).double()
    mean = total / count
    variance = (squares / count - mean.square()).clamp(min=0)
    return mean.float(), variance.sqrt().clamp(min=1e-3).float()
