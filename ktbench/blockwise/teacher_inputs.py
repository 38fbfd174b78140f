"""Batches of a data set for a teacher: on its device, under its own normalisation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ktbench.data import Dataset, Split, Stream
from ktbench.networks.layout import FIRST, Layout
from ktbench.students._contract import Inputs, each

CHUNK = 256
"""Samples per pass of an evaluation."""


@dataclass(frozen=True)
class TeacherInputs:
    """Batches of a data set for a teacher that learnt from `trained_on`."""

    dataset: Dataset
    trained_on: Dataset
    device: torch.device
    layout: Layout = FIRST
    """Layout of the network that is given them."""

    def training(self, stream: Stream, indices: Tensor, epoch: int) -> Inputs:
        """Make a training batch (B, ...), augmented."""
        return self._moved(stream.inputs(indices, epoch))

    def held_out(self, split: Split) -> Iterator[tuple[Inputs, Tensor]]:
        """Yield a split in chunks of inputs (B, ...) and labels, one per prediction."""
        for start in range(0, self.dataset.size(split), CHUNK):
            chunk = slice(start, start + CHUNK)
            labels = self.dataset.labels(split, chunk).to(self.device)
            yield self._moved(self.dataset.some(split, chunk)), labels

    def few(self, count: int = 2) -> Inputs:
        """Return some training samples without augmentation, to try a network with."""
        return self._moved(self.dataset.some("train", slice(count)))

    def _moved(self, inputs: Inputs) -> Inputs:
        inputs = each(self.layout.inputs(inputs), lambda part: part.to(self.device))
        return inputs if self._between is None else self._between(inputs)

    @cached_property
    def _between(self) -> Callable[[Inputs], Inputs] | None:
        """What leads to the teacher's normalisation; None where it is equal."""
        return self.dataset.between(self.trained_on)
