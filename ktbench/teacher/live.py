"""A teacher in this process that is run for every batch."""

from __future__ import annotations

from collections import Counter
from contextlib import nullcontext

import torch
from torch import Tensor

from ktbench.data import Dataset, between
from ktbench.isolation import own_code
from ktbench.networks.layout import Layout, frozen
from ktbench.networks.numeric import Clock, Runner
from ktbench.networks.outline import FlopCounter
from ktbench.networks.weights import weights_digest
from ktbench.records import NumericSpec
from ktbench.students._contract import Features, Student
from ktbench.transfer_methods._contract import Batch, Needs

TIMED_PASSES = 16
"""Passes of one batch shape that are timed on a GPU."""


class Live:
    """A network in eval mode, without gradient, its buffers untouched.

    `trained_on` is the data set that the teacher learnt from, `dataset` the one whose batches it
    answers: where their statistics differ, inputs are moved from one normalisation to the other.
    `layout` is the one that the network was trained in; None where that was always the first
    choice.
    """

    def __init__(
        self,
        network: Student,
        *,
        trained_on: Dataset,
        dataset: Dataset,
        numeric: NumericSpec | None = None,
        layout: Layout | None = None,
    ) -> None:
        numeric = numeric or NumericSpec()
        self._network = network.eval().requires_grad_(False)
        self._layout = layout or frozen(numeric)
        self._run = Runner(self._network, numeric, frozen=True, layout=self._layout)
        self._network.to(self._run.device)
        self._affine = between(dataset, trained_on)
        self._flops: dict[tuple[int, ...], int] = {}
        self._last: tuple[int, ...] = ()
        self._clock = Clock(self._run.device)
        self._passes: Counter[tuple[int, ...]] = Counter()
        self._seconds: dict[tuple[int, ...], float] = {}

    @property
    def digest(self) -> str:
        """Digest of the weights and buffers as they are now."""
        return weights_digest(self._network.state_dict())

    @property
    def stage_names(self) -> tuple[str, ...]:
        """Names of the network's stages."""
        return self._network.stage_names

    def outputs(self, batch: Batch, needs: Needs) -> Features:
        """Run one pass; what is needed and the network cannot show is missing."""
        inputs = batch.inputs
        if self._affine is not None:
            scale, shift = (side.to(inputs.device) for side in self._affine)
            inputs = inputs * scale + shift
        self._last = tuple(inputs.shape)
        # Not inference mode: a method may keep what it is given for its own backward pass.
        with own_code(), torch.no_grad():
            if self._last not in self._flops:
                self._flops[self._last] = self._count(inputs)
            return self._timed(inputs, needs)

    def _timed(self, inputs: Tensor, needs: Needs) -> Features:
        self._passes[self._last] += 1
        # Reading a GPU's clock waits for it, so the first passes there stand for the others.
        timed = self._run.device.type == "cpu" or self._passes[self._last] <= TIMED_PASSES
        with self._clock if timed else nullcontext():
            # A copy: a network may work in place, and students read the same inputs.
            features = self._run(inputs.clone(), needs)
        if timed:
            self._seconds[self._last] = self._clock.read()
        return features

    def flops(self) -> int:
        """Return the FLOPs of one forward pass of the last batch's shape."""
        return self._flops[self._last]

    def seconds(self) -> float:
        """Return the seconds of the last pass; on a GPU, of the last timed one of its shape."""
        return self._seconds[self._last]

    def _count(self, inputs: Tensor) -> int:
        with FlopCounter() as counter:
            self._network.forward_features(self._layout.inputs(inputs.clone()))
        return int(counter.get_total_flops())
