"""A data set as a teacher sees it: on its device, under its own normalisation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ktbench.data import Dataset, Split, Stream

CHUNK = 256
"""Images of one pass of an evaluation."""


@dataclass(frozen=True)
class Inputs:
    """Batches of a data set for a teacher that learnt from `trained_on`."""

    dataset: Dataset
    trained_on: Dataset
    device: torch.device

    def training(self, stream: Stream, indices: Tensor, epoch: int) -> Tensor:
        """A training batch (B, C, H, W), augmented, channels-last."""
        return self._moved(stream.inputs(indices, epoch))

    def held_out(self, split: Split) -> Iterator[tuple[Tensor, Tensor]]:
        """A split in chunks of inputs (B, C, H, W), channels-last, and labels (B,)."""
        images, labels = self.dataset.images(split), self.dataset.labels(split)
        for start in range(0, len(labels), CHUNK):
            chunk = self.dataset.normalise(images[start : start + CHUNK])
            inputs = self._moved(chunk.contiguous(memory_format=torch.channels_last))
            yield inputs, labels[start : start + CHUNK].to(self.device)

    def few(self, count: int = 2) -> Tensor:
        """Some training images as they are, to see what a network does with them."""
        images = self.dataset.normalise(self.dataset.images("train")[:count])
        return self._moved(images.contiguous(memory_format=torch.channels_last))

    def _moved(self, inputs: Tensor) -> Tensor:
        inputs = inputs.to(self.device)
        if self._between is None:
            return inputs
        scale, shift = self._between
        return inputs * scale + shift

    @cached_property
    def _between(self) -> tuple[Tensor, Tensor] | None:
        """Scale and shift (1, C, 1, 1) to the teacher's normalisation; None where it is equal."""
        own, theirs = self.dataset, self.trained_on
        if torch.equal(own.mean, theirs.mean) and torch.equal(own.std, theirs.std):
            return None
        scale = (own.std / theirs.std).view(1, -1, 1, 1)
        shift = ((own.mean - theirs.mean) / theirs.std).view(1, -1, 1, 1)
        return scale.to(self.device), shift.to(self.device)
