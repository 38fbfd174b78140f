"""Means with their intervals: Student's t, alone or by group, and the bootstrap."""

from __future__ import annotations

import hashlib
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

RESAMPLES = 9_999
"""Draws of the bootstrap."""

LEAST_SEEDS = 3
"""Seeds below which there is no verdict: two tell next to nothing about a spread."""

LEAST_FOR_BCA = 20
"""Values below which `bca` is too narrow to be shown."""

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
        """Side of zero on which the whole interval lies; `none` if it holds zero."""
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
    array = np.asarray(values, dtype=float)
    if array.size == 0:
        raise ValueError("an interval needs at least one value")
    return intervals(array, np.zeros(array.size, dtype=int), 1, level)[0]


def intervals(values: ArrayLike, groups: ArrayLike, count: int, level: float = LEVEL) -> Intervals:
    """Mean and t interval of each group 0 to `count` - 1; an empty group's figures are NaN.

    Computed for all groups at once, which scipy's one-sample tests cannot do for unequal groups.
    """
    array, group = np.asarray(values, dtype=float), np.asarray(groups, dtype=np.int64)
    n = np.bincount(group, minlength=count)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.bincount(group, array, count) / n
        squares = np.bincount(group, (array - mean[group]) ** 2, count)
        deviation = np.sqrt(squares / (n - 1))
    deviation = np.where((n >= 2) & (deviation > NO_SPREAD), deviation, np.nan)
    half = half_widths(n, deviation, level)
    return Intervals(mean, mean - half, mean + half, n.astype(np.int64), deviation)


def half_widths(n: NDArray[np.int64], deviation: Floats, level: float = LEVEL) -> Floats:
    """Half the width of Student's t interval of means of `n` values; NaN without a deviation."""
    with np.errstate(invalid="ignore", divide="ignore"):
        quantile = special.stdtrit(np.maximum(n - 1, 1), (1 + level) / 2)
        half: Floats = quantile * deviation / np.sqrt(n)
    return half


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


def signs(groups: Intervals) -> list[Sign]:
    """`Interval.sign` of every group."""
    unknown = np.isnan(groups.low) | np.isnan(groups.high)
    conditions = [unknown, groups.low > 0, groups.high < 0]
    return list(np.select(conditions, ["unknown", "positive", "negative"], "none"))


def bca(values: ArrayLike, level: float = LEVEL) -> Interval:
    """Mean with the bias-corrected and accelerated bootstrap interval (Efron, 1987).

    It undercovers small samples: of 95 % intervals over normal values, 85 % hold the mean at n = 5,
    90 % at 10 and 93 % at 20 (Student's t: 95 % at each); over exponential values, for whose skew
    it was made, 79, 87 and 91 % (t: 88, 90 and 92 %), measured by `benchmarks/coverage.py`. So t
    intervals decide and rank, and this one is a second opinion from `LEAST_FOR_BCA` values on.

    The values seed the draws, so their order does not matter. Bounds are None below three values
    and without a spread, as in `interval`. Raises ValueError without values.
    """
    ordered = np.sort(np.asarray(values, dtype=float))
    if ordered.size == 0:
        raise ValueError("an interval needs at least one value")
    mean, n = float(ordered.mean()), int(ordered.size)
    if n < 3 or not np.isfinite(ordered).all() or ordered.std(ddof=1) <= NO_SPREAD:
        return Interval(mean, None, None, n)
    from scipy.stats import bootstrap  # half a second, which few reports need

    seed = int.from_bytes(hashlib.sha256(ordered.tobytes()).digest()[:8], "little")
    bounds = bootstrap(
        (ordered,),
        np.mean,
        n_resamples=RESAMPLES,
        confidence_level=level,
        method="BCa",
        vectorized=True,
        random_state=np.random.default_rng(seed),
    ).confidence_interval
    low, high = float(bounds.low), float(bounds.high)
    if not (np.isfinite(low) and np.isfinite(high)):
        return Interval(mean, None, None, n)
    return Interval(mean, low, high, n)
