"""Speedup by transfer: the cost of a quality with and without it, and when a teacher pays off.

A side is a table of runs, seeds by budgets; each budget is a training of its own with its own full
learning-rate schedule (Blakeney et al., arXiv 2211.00683). Its curve is the mean quality against
the geometric mean of the cost. Between budgets it is linear in the logarithm of the cost; a budget
that is no better than a cheaper one is left out, so that the curve rises. Outside the qualities
that the budgets reached there is no figure: nothing is extrapolated.

Every interval is over seeds: the jackknife of the whole calculation with Student's t (Tukey, 1958).
Both sides lose the same seed together, so what they share (initial weights, data order) cancels. It
is preferred to the bootstrap, whose percentiles are too narrow for five seeds (the spread is short
by √((n − 1) / n), and a normal's quantile stands for a t's), and to a curve per seed, as single
runs cross and often do not reach a quality that the mean reaches.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from ktbench.stats import LEAST_SEEDS, LEVEL, Bools, Floats

GRID = 101
"""Qualities at which a curve of speedups is worked out, beside those of the budgets."""
_NO_SPREAD = 1e-12
_MOST_STUDENTS = 1e12


@dataclass(frozen=True)
class Runs:
    """One side of a comparison, seeds by budgets.

    Both (S, B): `cost` above 0 in any unit, `quality` higher is better. Raises ValueError for other
    shapes, a cost that is not positive, and figures that are not finite.
    """

    cost: Floats
    quality: Floats

    def __post_init__(self) -> None:
        if self.cost.ndim != 2 or self.cost.shape != self.quality.shape or not self.cost.size:
            raise ValueError("runs are two tables of equal shape, seeds by budgets")
        if not (np.isfinite(self.cost).all() and np.isfinite(self.quality).all()):
            raise ValueError("runs need a finite cost and quality for every seed and budget")
        if not (self.cost > 0).all():
            raise ValueError("a run's cost must be above 0")

    @property
    def seeds(self) -> int:
        """Number of seeds."""
        return len(self.cost)

    def of(self, seeds: ArrayLike) -> Runs:
        """Return the runs of some seeds."""
        return Runs(self.cost[np.asarray(seeds)], self.quality[np.asarray(seeds)])

    def plus(self, cost: float) -> Runs:
        """Return the same runs, each with a further cost: a share of a teacher's training."""
        return Runs(self.cost + cost, self.quality)


@dataclass(frozen=True)
class Curve:
    """Figures at qualities `q`, (Q,) each; NaN where there is none.

    `low` and `high` are NaN where there is no interval: with one seed, without any spread, and at
    an edge that the other seeds do not reach when one is left out.
    """

    q: Floats
    value: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True)
class Headline:
    """Largest speedup, its quality, and an interval that allows for the search of it.

    `low`, `high` and `p` (two-sided, of a speedup of 1, as wide) are NaN without an interval; see
    `headline`.
    """

    q: float
    value: float
    low: float
    high: float
    p: float


def frontier(runs: Runs) -> tuple[Floats, Floats]:
    """Select the budgets better than all cheaper ones: log of the cost, mean quality; both rise.

    (K,) each, K ≥ 1; costs are geometric means over seeds.
    """
    cost, quality = np.log(runs.cost).mean(axis=0), runs.quality.mean(axis=0)
    order = np.lexsort((-quality, cost))
    cost, quality = cost[order], quality[order]
    better = quality > np.r_[-np.inf, np.maximum.accumulate(quality)[:-1]]
    return cost[better], quality[better]


def cost_at(runs: Runs, q: ArrayLike) -> Floats:
    """Cost of each quality, linear in log cost between the frontier's budgets; else NaN.

    (Q,). The cheapest budget's own quality is the least that has a cost.
    """
    cost, quality = frontier(runs)
    at = np.interp(np.asarray(q, dtype=float), quality, cost, left=np.nan, right=np.nan)
    cost_of_each: Floats = np.exp(at)
    return cost_of_each


def qualities(baseline: Runs, method: Runs) -> Floats:
    """Qualities that both sides reach: `GRID` of them evenly, and every budget's own; or none.

    (Q,), rising.
    """
    with_transfer, without = frontier(method)[1], frontier(baseline)[1]
    low, high = max(with_transfer[0], without[0]), min(with_transfer[-1], without[-1])
    if low > high:
        return np.empty(0)
    knots = np.r_[with_transfer, without]
    inside = knots[(knots >= low) & (knots <= high)]
    return np.unique(np.r_[np.linspace(low, high, GRID), inside])


# ---------------------------------------------------------------- intervals over seeds


def _jackknife(
    figure: Callable[[Runs, Runs], Floats], baseline: Runs, method: Runs, level: float
) -> tuple[Floats, Floats, Floats]:
    """Compute a figure of both sides, (Q,), with the bounds of its t interval over paired seeds."""
    if baseline.seeds != method.seeds:
        raise ValueError("both sides need the same seeds")
    value, n = figure(baseline, method), baseline.seeds
    if n < 2:
        return value, np.full_like(value, np.nan), np.full_like(value, np.nan)
    rest = [np.delete(np.arange(n), seed) for seed in range(n)]
    without = np.stack([figure(baseline.of(seeds), method.of(seeds)) for seeds in rest])
    squares = ((without - without.mean(axis=0)) ** 2).sum(axis=0)
    error = np.sqrt((n - 1) / n * squares)
    half = float(special.stdtrit(n - 1, (1 + level) / 2)) * error
    half = np.where(error > _NO_SPREAD, half, np.nan)
    return value, value - half, value + half


def _log_ratio(q: Floats, baseline: Runs, method: Runs) -> Floats:
    return np.log(cost_at(baseline, q)) - np.log(cost_at(method, q))


def speedup(baseline: Runs, method: Runs, q: ArrayLike, level: float = LEVEL) -> Curve:
    """Cost of the baseline / cost of the method at each quality; above 1 the method is cheaper.

    Row s of both sides is the same seed. The interval is that of the ratio's logarithm.
    """
    at = np.asarray(q, dtype=float)
    return Curve(at, *map(np.exp, _jackknife(partial(_log_ratio, at), baseline, method, level)))


def at_budgets(baseline: Runs, method: Runs, level: float = LEVEL) -> Curve:
    """Speedup at the mean quality that each of the baseline's budgets reaches.

    (B,) in the order of the budgets. These qualities follow from the matrix and from no speedup, so
    their intervals need no allowance for a choice; `q` moves with the seeds that are left out.
    """

    def figure(baseline: Runs, method: Runs) -> Floats:
        return _log_ratio(baseline.quality.mean(axis=0), baseline, method)

    bounded = _jackknife(figure, baseline, method, level)
    return Curve(baseline.quality.mean(axis=0), *map(np.exp, bounded))


def saved_at_budgets(baseline: Runs, method: Runs, level: float = LEVEL) -> Curve:
    """Cost of the baseline − cost of the method, in their unit, where `at_budgets` has speedups."""

    def figure(baseline: Runs, method: Runs) -> Floats:
        q = baseline.quality.mean(axis=0)
        return cost_at(baseline, q) - cost_at(method, q)

    return Curve(baseline.quality.mean(axis=0), *_jackknife(figure, baseline, method, level))


def headline(baseline: Runs, method: Runs, level: float = LEVEL) -> Headline | None:
    """Find the largest speedup over the qualities that both sides reach, or None without any.

    The largest of several noisy figures is too large on average, and its plain 95 % interval covers
    the truth in 90 % of cases when nothing is gained anywhere (simulated: five budgets, 3 to 10
    seeds). The interval's level is therefore spread, by Bonferroni's inequality, over the budgets
    of the longer frontier, which covers 97 to 98 %. Where some qualities have an interval, the
    largest speedup of those is taken.
    """
    q = qualities(baseline, method)
    if not q.size:
        return None
    budgets = max(len(frontier(baseline)[0]), len(frontier(method)[0]))
    level = 1 - (1 - level) / budgets
    curve = speedup(baseline, method, q, level)
    judged = ~np.isnan(curve.low)
    allowed = judged if judged.any() else np.ones(len(q), dtype=bool)
    best = int(np.where(allowed, curve.value, -np.inf).argmax())
    bounds = float(curve.low[best]), float(curve.high[best])
    p = float(np.minimum(budgets * p_of_one(curve, baseline.seeds, level)[best], 1.0))
    return Headline(float(curve.q[best]), float(curve.value[best]), *bounds, p)


def p_of_one(curve: Curve, seeds: int, level: float = LEVEL) -> Floats:
    """Two-sided p of a speedup of 1 by the same t as the curve's interval at `level`; else NaN.

    (Q,): at most 1 - level where the interval leaves 1 out. NaN below `LEAST_SEEDS` seeds.
    """
    if seeds < LEAST_SEEDS:
        return np.full(len(curve.q), np.nan)
    freedom = max(seeds - 1, 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        error = np.log(curve.high / curve.value) / special.stdtrit(freedom, (1 + level) / 2)
        t = np.log(curve.value) / error
    p: Floats = 2 * special.stdtr(freedom, -np.abs(t))
    return p


def ranges(q: Floats, where: Bools) -> list[tuple[float, float]]:
    """Stretches of qualities at which something holds, as (first, last) of each."""
    edges = np.flatnonzero(np.diff(np.r_[False, where, False].astype(int)))
    pairs = zip(edges[::2], edges[1::2], strict=True)
    return [(float(q[start]), float(q[end - 1])) for start, end in pairs]


# ---------------------------------------------------------------- the teacher's own training


def break_even(saving: float, training: float) -> int | None:
    """Least number of students for which n · saving > the teacher's training; or None.

    None where a student saves nothing, or too little to count with, or the saving is not known
    (NaN). A teacher that costs nothing pays for the first student. Raises ValueError when the
    training is not known.
    """
    if not training >= 0:
        raise ValueError("the cost of the teacher's training must be known and not below 0")
    if not saving > training / _MOST_STUDENTS:
        return None
    students = max(1, math.floor(training / saving))
    return students if students * saving > training else students + 1
