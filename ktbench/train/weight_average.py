"""A moving average of a network's weights, which is judged and kept in place of the last ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class WeightAverage:
    """The exponential moving average of a network's weights and statistics, from its first step.

    After n steps, each step keeps the smaller of `decay` and (1 + n) / (10 + n), so that the first
    weights are soon forgotten (TensorFlow's ExponentialMovingAverage). Whole numbers, such as a
    count of batches, are not averaged.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        held = chain(network.parameters(), network.buffers())
        self._current = [tensor.detach() for tensor in held if tensor.is_floating_point()]
        self._decay = decay
        self._average = [tensor.clone() for tensor in self._current]

    def update(self, steps: int) -> None:
        """Take in the network after a step, before which there were so many."""
        decay = min(self._decay, (1 + steps) / (10 + steps))
        average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        average(self._average, self._current, steps)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Give the network its averaged weights for a while."""
        own = [tensor.clone() for tensor in self._current]
        self.take()
        try:
            yield
        finally:
            _copy(own, self._current)

    def take(self) -> None:
        """Give the network its averaged weights for good."""
        _copy(self._average, self._current)

    def state(self) -> list[Tensor]:
        """Return the average, to go on from later."""
        return self._average

    def restore(self, state: Sequence[Tensor]) -> None:
        """Go on from a saved average of the same network."""
        _copy(state, self._average)


@torch.no_grad()
def _copy(source: Sequence[Tensor], target: Sequence[Tensor]) -> None:
    for ours, theirs in zip(target, source, strict=True):
        ours.copy_(theirs)
