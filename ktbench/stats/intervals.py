"""Means with Student's t interval, alone or many at once, and the sign that one interval shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

LEVEL = 0.95
"""Confidence level of every interval of the report."""

NO_SPREAD = 1e-12
"""Standard deviations up to this are rounding: such values say nothing about a spread."""

Sign = Literal["positive", "none", "negative", "unknown"]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A mean of `n` values with Student's t interval; bounds are None where there is none.

    There is none for one value, nor for values without any spread: coarse figures (accuracies
    on a small test set) can coincide by chance, and a width of zero would claim certainty.
    """

    mean: float
    low: float | None
    high: float | None
    n: int

    @property
    def sign(self) -> Sign:
        """Where zero lies: the whole interval above, below, or neither; unknown without one."""
        if self.low is None or self.high is None:
            return "unknown"
        if self.low > 0:
            return "positive"
        return "negative" if self.high < 0 else "none"


@dataclass(frozen=True)
class Intervals:
    """One interval per group, as arrays; bounds are NaN where `Interval` has None."""

    mean: Floats
    low: Floats
    high: Floats
    n: NDArray[np.int64]
    deviation: Floats
    """Standard deviation of the group's values, with n - 1; NaN where there is no interval."""

    def __getitem__(self, index: int) -> Interval:
        """One group's interval."""
        low, high = float(self.low[index]), float(self.high[index])
        bounded = not (np.isnan(low) or np.isnan(high))
        return Interval(
            float(self.mean[index]),
            low if bounded else None,
            high if bounded else None,
            int(self.n[index]),
        )


def interval(values: ArrayLike, level: float = LEVEL) -> Interval:
    """Mean and t interval of independent values; raises ValueError when there are none."""
    found = np.asarray(values, dtype=float)
    if found.size == 0:
        raise ValueError("an interval needs at least one value")
    return intervals(found, np.zeros(found.size, dtype=int), 1, level)[0]


def intervals(values: ArrayLike, groups: ArrayLike, count: int, level: float = LEVEL) -> Intervals:
    """Mean and t interval of each group 0 to `count` - 1; an empty group's figures are NaN."""
    found, group = np.asarray(values, dtype=float), np.asarray(groups, dtype=np.int64)
    n = np.bincount(group, minlength=count)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.bincount(group, found, count) / n
        squares = np.bincount(group, (found - mean[group]) ** 2, count)
        deviation = np.sqrt(squares / (n - 1))
        half = special.stdtrit(np.maximum(n - 1, 1), (1 + level) / 2) * deviation / np.sqrt(n)
    spread = (n >= 2) & (deviation > NO_SPREAD)
    half, deviation = np.where(spread, half, np.nan), np.where(spread, deviation, np.nan)
    return Intervals(mean, mean - half, mean + half, n.astype(np.int64), deviation)


def paired_gain(
    treated: Mapping[int, float], baseline: Mapping[int, float], level: float = LEVEL
) -> Interval | None:
    """Mean difference, treated minus baseline, over the seeds that both have; None without any.

    Both sides of a seed share initial weights and data order, so the difference has less spread
    than either side.
    """
    seeds = sorted(treated.keys() & baseline.keys())
    if not seeds:
        return None
    return interval([treated[seed] - baseline[seed] for seed in seeds], level)


def signs(found: Intervals) -> list[Sign]:
    """`Interval.sign` of every group."""
    unknown = np.isnan(found.low) | np.isnan(found.high)
    chosen = np.select(
        [unknown, found.low > 0, found.high < 0], ["unknown", "positive", "negative"], "none"
    )
    return list(chosen)
