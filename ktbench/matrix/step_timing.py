"""Speed of networks on this machine, from a few timed training steps."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from ktbench import catalogue
from ktbench.data import DataInfo, describe
from ktbench.networks.layout import safe
from ktbench.networks.outline import forward_flops, lacks_memory, own_names
from ktbench.records import OWN_ERRORS, Cell, DataSpec, Item, KtbenchError, NumericSpec
from ktbench.supervision import mark
from ktbench.system.machine import bounded_memory, usable_cores

_LARGEST_BATCH = 32
_LARGEST_INPUT = 32 * 3 * 96 * 96
"""Most values in a timed batch, which bounds its size for large images."""
_TIMING_SHARE = 0.25
"""Share of the free memory that timing may take."""
_MOST_SECONDS = 10.0
"""Timing budget: later networks are assumed as fast per operation as those timed before."""


@dataclass(frozen=True)
class Speed:
    """Seconds and FLOPs per image of one network with one batch size."""

    forward: float
    step: float
    flops: int


@dataclass
class StepTimer:
    """Times the training step of each network once."""

    base: Path
    untimed: dict[str, None] = field(default_factory=dict)
    """Labels of networks that failed."""
    _speeds: dict[tuple[str, str, int, int, str], Speed] = field(default_factory=dict)
    _infos: dict[str, DataInfo] = field(default_factory=dict)
    _spent: float = 0.0
    """Seconds of timing."""

    def info(self, data: DataSpec) -> DataInfo:
        """Describe a data set, once."""
        if data.canonical not in self._infos:
            self._infos[data.canonical] = describe(data, self.base)
        return self._infos[data.canonical]

    def speed(self, item: Item, cell: Cell) -> Speed:
        """Time a network on a cell's data; zero for one that fails, which is then in `untimed`."""
        info = self.info(cell.data)
        fitting = max(1, _LARGEST_INPUT // math.prod(info.shape))
        batch = min(cell.train.batch_size, info.train_size, _LARGEST_BATCH, fitting)
        numeric = cell.numeric
        question = (item.label, cell.data.canonical, batch, numeric.threads, numeric.layout)
        if catalogue.refused(item.label):
            self.untimed[item.label] = None
            return Speed(0.0, 0.0, 0)
        if question not in self._speeds:
            mark(item.label, "timing a training step", item.label)
            before, began = torch.get_num_threads(), time.perf_counter()
            torch.set_num_threads(min(numeric.threads, usable_cores()))
            try:
                if self._spent < _MOST_SECONDS:
                    self._speeds[question] = self._timed_in_bounds(item, info, batch, numeric)
                else:
                    self._speeds[question] = self._like_others(item, info)
            except OWN_ERRORS:  # a user's own network may do anything with these images
                if not own_names(item):
                    raise
                self.untimed[item.label] = None
                self._speeds[question] = Speed(0.0, 0.0, 0)
            finally:
                torch.set_num_threads(before)
                self._spent += time.perf_counter() - began
        return self._speeds[question]

    def _timed_in_bounds(
        self, item: Item, info: DataInfo, batch: int, numeric: NumericSpec
    ) -> Speed:
        """Time a network; KtbenchError where a step takes more memory than can be spared."""
        try:
            with bounded_memory(_TIMING_SHARE):
                return self._timed(item, info, batch, numeric)
        except (MemoryError, RuntimeError) as error:
            if not lacks_memory(error):
                raise
            size = "×".join(map(str, info.shape))
            raise KtbenchError(
                f"{item.label}: a training step with {batch} image{'s' if batch > 1 else ''} of "
                f"{size} takes more memory than a quarter of what is free here: make "
                "data.image_size or the network smaller"
            ) from error

    def _like_others(self, item: Item, info: DataInfo) -> Speed:
        """Estimate a network by its operations, at the speed of those timed."""
        timed = list(self._speeds.values())
        flops = forward_flops(item, info.num_classes, info.shape, str(self.base))
        share = flops / max(1, sum(speed.flops for speed in timed))
        forward, step = sum(s.forward for s in timed), sum(s.step for s in timed)
        return Speed(share * forward, share * step, flops)

    def _timed(self, item: Item, info: DataInfo, batch: int, numeric: NumericSpec) -> Speed:
        """Time the best of a few passes and steps, or a single one where that takes long."""
        with torch.random.fork_rng(devices=[]):
            network = catalogue.build_student(
                item.name,
                item.settings,
                num_classes=info.num_classes,
                in_channels=info.shape[0],
                base=str(self.base),
            )
            inputs = torch.rand(batch, *info.shape)
        layout = safe(network, inputs, numeric)
        layout.place(network)
        inputs = layout.inputs(inputs)
        optimiser = torch.optim.SGD(network.parameters(), lr=0.0, momentum=0.9, fused=True)
        with layout.running():
            step = _best(lambda: _step(network, optimiser, inputs))
            network.eval()
            forward = _best(lambda: _forward(network, inputs))
        flops = forward_flops(item, info.num_classes, info.shape, str(self.base))
        return Speed(forward / batch, step / batch, flops)


def _best(seconds: Callable[[], float]) -> float:
    """Return the shortest of up to five runs that together take up to half a second."""
    times: list[float] = []
    while len(times) < 5 and sum(times) < 0.5:
        times.append(seconds())
    return min(times)


def _step(network: nn.Module, optimiser: torch.optim.Optimizer, inputs: torch.Tensor) -> float:
    start = time.perf_counter()
    labels = torch.zeros(len(inputs), dtype=torch.int64)
    torch.autograd.backward(functional.cross_entropy(network(inputs), labels))
    optimiser.step()
    optimiser.zero_grad()
    return time.perf_counter() - start


def _forward(network: nn.Module, inputs: torch.Tensor) -> float:
    start = time.perf_counter()
    with torch.no_grad():
        network(inputs)
    return time.perf_counter() - start
