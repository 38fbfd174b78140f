"""Ranges of int8 activations that leave rare values out; pure functions of histograms."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ktbench.records import Calibration

BINS = 2048
OUTSIDE = 1e-4
"""Share of values that a percentile's range may leave out, half of it at either end: of the shares
that Wu et al., "Integer quantization for deep learning inference" (2020), table 3, compare, the one
that never loses much."""
STEPS = 255
"""Steps of 8 bits."""
_SHRINKS = np.linspace(1.0, 0.2, 33)


@dataclass(frozen=True)
class Histogram:
    """The counts of values in equal bins between the least and the greatest of them."""

    low: float
    high: float
    counts: NDArray[np.int64]
    """Counts (BINS,)."""

    @property
    def centres(self) -> NDArray[np.float64]:
        """Middles of the bins (BINS,)."""
        edges = np.linspace(self.low, self.high, len(self.counts) + 1)
        return np.asarray((edges[1:] + edges[:-1]) / 2)


def chosen_range(histogram: Histogram, calibration: Calibration) -> tuple[float, float]:
    """Return the range of a tensor; it holds zero, and at most the tensor's own values."""
    low, high = min(histogram.low, 0.0), max(histogram.high, 0.0)
    if calibration == "minmax" or high <= low or not histogram.counts.sum():
        return low, high
    if calibration == "percentile":
        return _percentile(histogram)
    return _least_error(histogram, low, high)


def _percentile(histogram: Histogram) -> tuple[float, float]:
    below = np.cumsum(histogram.counts) / histogram.counts.sum()
    edges = np.linspace(histogram.low, histogram.high, len(histogram.counts) + 1)
    first = int(np.searchsorted(below, OUTSIDE / 2, side="right"))
    last = int(np.searchsorted(below, 1 - OUTSIDE / 2))
    return min(float(edges[first]), 0.0), max(float(edges[last + 1]), 0.0)


def _least_error(histogram: Histogram, low: float, high: float) -> tuple[float, float]:
    """Shrink the upper end, then the lower, then the upper again, to the least squared error."""
    best_low, best_high = low, high
    for end in ("high", "low", "high"):
        tried = [
            (best_low, high * shrink) if end == "high" else (low * shrink, best_high)
            for shrink in _SHRINKS
        ]
        best_low, best_high = min(tried, key=lambda ends: squared_error(histogram, *ends))
    return best_low, best_high


def squared_error(histogram: Histogram, low: float, high: float) -> float:
    """Return the mean squared error of values that are rounded to 8 bits within a range."""
    step = (high - low) / STEPS
    values = histogram.centres
    if step <= 0:
        return float(np.average(values**2, weights=histogram.counts))
    rounded = np.clip(np.round((values - low) / step), 0, STEPS) * step + low
    return float(np.average((rounded - values) ** 2, weights=histogram.counts))
