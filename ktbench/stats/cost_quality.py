"""Cost against quality: Pareto fronts, mean speed-ups, and the cost to reach a target."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ktbench.stats.intervals import Floats

Bools = NDArray[np.bool_]


def pareto_front(cost: ArrayLike, quality: ArrayLike) -> Bools:
    """Mark the points of the Pareto front: none is better at no more cost, or as good for less.

    (N,) bool. Equal points are all on the front; a point with NaN never is.
    """
    costs, qualities = np.asarray(cost, dtype=float), np.asarray(quality, dtype=float)
    valid = np.flatnonzero(~(np.isnan(costs) | np.isnan(qualities)))
    order = valid[np.lexsort((-qualities[valid], costs[valid]))]
    front = np.zeros(costs.shape, dtype=bool)
    if not order.size:
        return front
    c, q = costs[order], qualities[order]
    first = np.maximum.accumulate(np.where(np.r_[True, c[1:] != c[:-1]], np.arange(len(c)), 0))
    best_before = np.r_[-np.inf, np.maximum.accumulate(q)[:-1]][first]
    front[order] = (q == q[first]) & (q > best_before)
    return front


def geometric_mean(values: ArrayLike) -> float:
    """Mean of ratios: of speed-ups 2 and 1/2 it is 1. NaN without values.

    Raises ValueError unless every value is positive.
    """
    ratios = np.asarray(values, dtype=float)
    if ratios.size == 0:
        return float("nan")
    if not (ratios > 0).all():
        raise ValueError("a geometric mean needs positive values")
    return float(np.exp(np.log(ratios).mean()))


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
    array, bounds = np.asarray(values, dtype=float), np.asarray(starts, dtype=np.int64)
    lengths = np.diff(bounds)
    reached = np.flatnonzero(array >= np.repeat(np.asarray(targets, dtype=float), lengths))
    position = np.searchsorted(reached, bounds[:-1])
    inside = position < len(reached)
    index = np.full(len(lengths), np.nan)
    index[inside] = reached[position[inside]]
    return np.where(index < bounds[1:], index, np.nan)
