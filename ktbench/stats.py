"""Pure statistics of the report: intervals, signs, time to a target, Pareto fronts.

Everything here takes arrays and returns arrays or frozen values; nothing knows of records.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

LEVEL = 0.95
"""Confidence level of every interval of the report."""

_NO_SPREAD = 1e-12
"""Standard deviations up to this are rounding: such values say nothing about a spread."""

Sign = Literal["positive", "none", "negative", "unknown"]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


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
    half = np.where((n >= 2) & (deviation > _NO_SPREAD), half, np.nan)
    return Intervals(mean, mean - half, mean + half, n.astype(np.int64))


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


# ---------------------------------------------------------------- time to a target


def first_reaching(values: Sequence[float] | Floats, target: float) -> int | None:
    """Index of the first value that is at least `target`, or None; NaN reaches nothing.

    No interpolation: a validation accuracy is known at the end of an epoch only.
    """
    reached = np.asarray(values, dtype=float) >= target
    return int(reached.argmax()) if reached.any() else None


def cost_to_reach(
    costs: Sequence[float] | Floats, values: Sequence[float] | Floats, target: float
) -> float | None:
    """Cumulative cost at which `values` reach `target`, by linear interpolation, or None.

    The line runs from the last value below the target to the first that reaches it; a target that
    the first value reaches costs what the first value cost, as nothing is known before it.
    """
    index = first_reaching(values, target)
    if index is None:
        return None
    if index == 0 or not np.isfinite(values[index - 1]):
        return float(costs[index])
    below, above = float(values[index - 1]), float(values[index])
    share = (target - below) / (above - below)
    return float(costs[index - 1] + share * (costs[index] - costs[index - 1]))


def first_reaching_each(values: ArrayLike, targets: ArrayLike, starts: ArrayLike) -> Floats:
    """`first_reaching` of many runs that lie end to end, as indices into `values`.

    values (N,); targets (R,); starts (R + 1,): run r is `values[starts[r]:starts[r + 1]]`.
    Returns (R,) float64, NaN where the target is never reached.
    """
    found, bounds = np.asarray(values, dtype=float), np.asarray(starts, dtype=np.int64)
    lengths = np.diff(bounds)
    reached = np.flatnonzero(found >= np.repeat(np.asarray(targets, dtype=float), lengths))
    position = np.searchsorted(reached, bounds[:-1])
    inside = position < len(reached)
    index = np.full(len(lengths), np.nan)
    index[inside] = reached[position[inside]]
    return np.where(index < bounds[1:], index, np.nan)


# ---------------------------------------------------------------- fronts and means


def pareto_front(cost: ArrayLike, quality: ArrayLike) -> Bools:
    """Which points no other point beats: none costs no more and is better, or costs less and is
    as good.

    (N,) bool. Equal points are all on the front; a point with NaN never is.
    """
    costs, qualities = np.asarray(cost, dtype=float), np.asarray(quality, dtype=float)
    known = np.flatnonzero(~(np.isnan(costs) | np.isnan(qualities)))
    order = known[np.lexsort((-qualities[known], costs[known]))]
    front = np.zeros(costs.shape, dtype=bool)
    if not order.size:
        return front
    c, q = costs[order], qualities[order]
    first = np.maximum.accumulate(np.where(np.r_[True, c[1:] != c[:-1]], np.arange(len(c)), 0))
    best_before = np.r_[-np.inf, np.maximum.accumulate(q)[:-1]][first]
    front[order] = (q == q[first]) & (q > best_before)
    return front


def geometric_mean(values: ArrayLike) -> float:
    """The mean of ratios: of speed-ups 2 and 1/2 it is 1. NaN without values.

    Raises ValueError unless every value is positive.
    """
    found = np.asarray(values, dtype=float)
    if found.size == 0:
        return float("nan")
    if not (found > 0).all():
        raise ValueError("a geometric mean needs positive values")
    return float(np.exp(np.log(found).mean()))
