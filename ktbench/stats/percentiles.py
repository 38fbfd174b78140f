"""Percentiles of latency samples with bounds from order statistics; pure functions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import bdtr


@dataclass(frozen=True, slots=True)
class Bounded:
    """A percentile and the bounds of its confidence interval, in the samples' unit."""

    value: float
    low: float
    high: float


def bounded_percentile(
    samples: ArrayLike, fraction: float, confidence: float = 0.95
) -> Bounded | None:
    """Nearest-rank percentile, between the order statistics that bound it.

    The number of samples below the true percentile is binomial, whatever the distribution
    (David and Nagaraja, Order Statistics, 3rd edition, section 7.1): so the bounds hold at least
    with `confidence`, each side alike. None where so few samples have no such bounds.
    """
    ordered = np.sort(np.asarray(samples, dtype=np.float64))
    count = len(ordered)
    if not 0 < fraction < 1 or not 0 < confidence < 1:
        raise ValueError("a fraction and a confidence lie between 0 and 1")
    ranks = order_ranks(count, fraction, confidence)
    if ranks is None:
        return None
    nearest = max(int(np.ceil(fraction * count - 1e-9)), 1)
    low, high = ranks
    return Bounded(*(float(ordered[rank - 1]) for rank in (nearest, low, high)))


def order_ranks(count: int, fraction: float, confidence: float = 0.95) -> tuple[int, int] | None:
    """Ranks (from 1) of the order statistics that bound a percentile, or None where none do."""
    if count < 1:
        return None
    side = (1 - confidence) / 2
    # P(at most k samples lie below the percentile), for k = 0 ... count - 1
    below = bdtr(np.arange(count), count, fraction)
    lows = np.flatnonzero(below <= side)  # rank k + 1 lies above it with P <= side
    highs = np.flatnonzero(below >= 1 - side)
    if not len(lows) or not len(highs):
        return None
    return int(lows[-1]) + 1, int(highs[0]) + 1


def least_count(fraction: float, confidence: float = 0.95) -> int:
    """Least number of samples that bound a percentile on both sides."""
    side = np.log((1 - confidence) / 2)
    return int(np.ceil(max(side / np.log(fraction), side / np.log(1 - fraction))))
