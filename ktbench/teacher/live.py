"""A teacher in this process that is run for every batch."""

from __future__ import annotations

from collections import Counter
from contextlib import nullcontext
from dataclasses import replace

import torch
from torch import Tensor

from ktbench.data import Dataset
from ktbench.isolation import own_code
from ktbench.networks.layout import Layout, frozen
from ktbench.networks.numeric import Clock, Runner
from ktbench.networks.outline import FlopCounter
from ktbench.networks.weights import weights_digest
from ktbench.records import NumericSpec
from ktbench.students._contract import Features, Heads, Inputs, Student, each, parts
from ktbench.transfer_methods._contract import Batch, Needs

TIMED_PASSES = 16
"""Passes of one batch shape that are timed on a GPU."""
_Shapes = tuple[tuple[int, ...], ...]


class Live:
    """A network in eval mode, without gradient, its buffers untouched.

    `trained_on` is the data set that the teacher learnt from, `dataset` the one whose batches it
    answers: where these differ in normalisation or size, inputs are moved from one to the other.
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
        self._moved = dataset.between(trained_on)
        self._flops: dict[_Shapes, int] = {}
        self._last: _Shapes = ()
        self._clock = Clock(self._run.device)
        self._passes: Counter[_Shapes] = Counter()
        self._seconds: dict[_Shapes, float] = {}

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
        inputs = batch.inputs if self._moved is None else self._moved(batch.inputs)
        self._last = tuple(tuple(part.shape) for part in parts(inputs))
        # Not inference mode: a method may keep what it is given for its own backward pass.
        with own_code(), torch.no_grad():
            if self._last not in self._flops:
                self._flops[self._last] = self._count(inputs)
            return self._timed(inputs, needs)

    def _timed(self, inputs: Inputs, needs: Needs) -> Features:
        self._passes[self._last] += 1
        # Reading a GPU's clock waits for it, so the first passes there stand for the others.
        timed = self._run.device.type == "cpu" or self._passes[self._last] <= TIMED_PASSES
        with self._clock if timed else nullcontext():
            # A copy: a network may work in place, and students read the same inputs.
            features = self._run(each(inputs, Tensor.clone), needs)
            if needs.attentions:
                # Stored and sent heads are dense, and strides choose kernels and so bits.
                dense = (Heads(*map(Tensor.contiguous, heads)) for heads in features.attentions)
                features = replace(features, attentions=tuple(dense))
        if timed:
            self._seconds[self._last] = self._clock.read()
        return features

    def flops(self) -> int:
        """Return the FLOPs of one forward pass of the last batch's shape."""
        return self._flops[self._last]

    def seconds(self) -> float:
        """Return the seconds of the last pass; on a GPU, of the last timed one of its shape."""
        return self._seconds[self._last]

    def _count(self, inputs: Inputs) -> int:
        with FlopCounter() as counter:
            self._network.forward_features(self._layout.inputs(each(inputs, Tensor.clone)))
        return int(counter.get_total_flops())
