"""Differences of many groups and of two samples: intervals, p, effect sizes, signs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from ktbench.stats.hypothesis_tests import holm, sign_flip_test, signs_at, t_test
from ktbench.stats.intervals import (
    LEVEL,
    NO_SPREAD,
    Floats,
    Interval,
    Intervals,
    Sign,
    intervals,
)


@dataclass(frozen=True)
class Differences:
    """Statistics of paired differences, one entry per group; NaN where there is none.

    The groups with a p are one family: `adjusted` and `sign` are by Holm's step-down over them.
    """

    interval: Intervals
    """Each group's own t interval: not adjusted."""
    p: Floats
    """Two-sided, Student's t."""
    adjusted: Floats
    exact: Floats
    """Two-sided, over all flips of signs: assumes no distribution, and decides no sign."""
    effect: Floats
    """`effect_size`."""
    sign: list[Sign]
    level: float

    @property
    def family(self) -> int:
        """Tests in the family."""
        return int((~np.isnan(self.p)).sum())


def differences(
    values: ArrayLike, groups: ArrayLike, count: int, level: float = LEVEL
) -> Differences:
    """Judge the paired differences of groups 0 to `count` - 1 as one family.

    values (N,), groups (N,): a difference (treated minus baseline, same seed) and its group.
    """
    array, group = np.asarray(values, dtype=float), np.asarray(groups, dtype=np.int64)
    interval = intervals(array, group, count, level)
    p = t_test(interval)
    adjusted = holm(p)
    exact = np.full(count, np.nan)
    for number, members in enumerate(split(array, group, count)):
        if not np.isnan(p[number]) and (value := sign_flip_test(members)) is not None:
            exact[number] = value
    sign = signs_at(interval.mean, adjusted, level)
    return Differences(interval, p, adjusted, exact, effect_size(interval), sign, level)


def split(values: Floats, groups: NDArray[np.int64], count: int) -> list[Floats]:
    """Return the values of each group 0 to `count` - 1, in their order."""
    order = np.argsort(groups, kind="stable")
    ends = np.cumsum(np.bincount(groups, minlength=count))
    return np.split(values[order], ends[:-1]) if count else []


def effect_size(groups: Intervals) -> Floats:
    """Bias-corrected Cohen's d_z of each group: mean difference over its standard deviation.

    Multiplied by Hedges' exact factor J = Γ(v/2) / (√(v/2) Γ((v-1)/2)) with v = n - 1 (Hedges,
    1981). NaN below three values, where the factor does not exist, and without a spread.
    """
    v = np.maximum(groups.n - 1, 2) / 2
    factor = np.exp(special.gammaln(v) - special.gammaln(v - 0.5)) / np.sqrt(v)
    with np.errstate(invalid="ignore", divide="ignore"):
        standardised = factor * groups.mean / groups.deviation
    effect: Floats = np.where(groups.n >= 3, standardised, np.nan)
    return effect


@dataclass(frozen=True)
class Unpaired:
    """The difference of two samples' means, after minus before, with Welch's t interval.

    Bounds and p are None where a side has fewer than two values, or neither has a spread.
    """

    mean: float
    low: float | None
    high: float | None
    p: float | None
    n_before: int
    n_after: int

    @property
    def sign(self) -> Sign:
        """Side of zero on which the whole interval lies, as in `Interval`."""
        return Interval(self.mean, self.low, self.high, self.n_after).sign


def welch(before: ArrayLike, after: ArrayLike, level: float = LEVEL) -> Unpaired:
    """Difference of the means of two independent samples whose spreads may differ (Welch, 1947).

    For results that share no seeds; where they do, pairing by seed says more. Raises ValueError
    for an empty side or a value that is not finite. `scipy.stats.ttest_ind` gives the same figures,
    but warns where one side is constant, as accuracies on a small test set often are.
    """
    sides = [np.asarray(side, dtype=float) for side in (before, after)]
    if any(not side.size or not np.isfinite(side).all() for side in sides):
        raise ValueError("a comparison needs finite values on both sides")
    mean = float(sides[1].mean() - sides[0].mean())
    sizes = [side.size for side in sides]
    if min(sizes) < 2 or max(side.std(ddof=1) for side in sides) <= NO_SPREAD:
        return Unpaired(mean, None, None, None, *sizes)
    squares = np.array([side.var(ddof=1) / side.size for side in sides])
    error = float(np.sqrt(squares.sum()))
    # Welch and Satterthwaite's degrees of freedom.
    freedom = squares.sum() ** 2 / (squares**2 / (np.array(sizes) - 1)).sum()
    half = float(special.stdtrit(freedom, (1 + level) / 2)) * error
    p = float(2 * special.stdtr(freedom, -abs(mean) / error))
    return Unpaired(mean, mean - half, mean + half, p, *sizes)
