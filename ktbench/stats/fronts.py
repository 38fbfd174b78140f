"""Pareto fronts, and means of ratios."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Bools = NDArray[np.bool_]


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
