"""Batches of a data set for a teacher: on its device, under its own normalisation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ktbench.data import Dataset, Split, Stream, between
from ktbench.networks.layout import FIRST, Layout

CHUNK = 256
"""Images per pass of an evaluation."""


@dataclass(frozen=True)
class TeacherInputs:
    """Batches of a data set for a teacher that learnt from `trained_on`."""

    dataset: Dataset
    trained_on: Dataset
    device: torch.device
    layout: Layout = FIRST
    """Layout of the network that is given them."""

    def training(self, stream: Stream, indices: Tensor, epoch: int) -> Tensor:
        """Make a training batch (B, C, H, W), augmented."""
        return self._moved(stream.inputs(indices, epoch))

    def held_out(self, split: Split) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield a split in chunks of inputs (B, C, H, W) and labels (B,)."""
        images, labels = self.dataset.images(split), self.dataset.labels(split)
        for start in range(0, len(labels), CHUNK):
            chunk = self.dataset.normalise(images[start : start + CHUNK])
            yield self._moved(chunk), labels[start : start + CHUNK].to(self.device)

    def few(self, count: int = 2) -> Tensor:
        """Return some training images without augmentation, to try a network with."""
        images = self.dataset.normalise(self.dataset.images("train")[:count])
        return self._moved(images)

    def _moved(self, inputs: Tensor) -> Tensor:
        inputs = self.layout.inputs(inputs).to(self.device)
        if self._between is None:
            return inputs
        scale, shift = self._between
        return inputs * scale + shift

    @cached_property
    def _between(self) -> tuple[Tensor, Tensor] | None:
        """Scale and shift (1, C, 1, 1) to the teacher's normalisation; None where it is equal."""
        moves = between(self.dataset, self.trained_on)
        if moves is None:
            return None
        scale, shift = (side.to(self.device) for side in moves)
        return scale, shift
