"""Times to a target, of which some did not come within the budget: censored, not left out."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import CensoredData, ecdf

from ktbench.stats.intervals import LEVEL, Floats, Interval, interval


@dataclass(frozen=True)
class Median:
    """Median time with its interval; None is later than the last time of all."""

    value: float | None
    low: float | None
    high: float | None
    n: int
    censored: int


def median_time(times: ArrayLike, censored: ArrayLike, level: float = LEVEL) -> Median:
    """Median of the Kaplan-Meier curve (1958), with the interval of Brookmeyer and Crowley (1982).

    `times` (N,): when the target was reached, or when the budget ended where `censored`. The curve
    and its log-log (exponential Greenwood) bounds are scipy's; the median is the first time at
    which half or more have reached it, its bounds are where the curve's bounds cross a half.
    Raises ValueError without times.
    """
    values, late = np.asarray(times, dtype=float), np.asarray(censored, dtype=bool)
    if not values.size:
        raise ValueError("a median needs at least one time")
    n, lost = int(values.size), int(late.sum())
    if lost == n:
        return Median(None, None, None, n, lost)
    curve = ecdf(CensoredData(values[~late], right=values[late])).sf
    with warnings.catch_warnings():  # it is not defined where all have reached the target
        warnings.simplefilter("ignore", RuntimeWarning)
        bounds = curve.confidence_interval(level, method="log-log")
    return Median(
        _half(curve.quantiles, curve.probabilities, 1.0),
        _half(curve.quantiles, bounds.low.probabilities, 0.0),
        _half(curve.quantiles, bounds.high.probabilities, 1.0),
        n,
        lost,
    )


def _half(times: Floats, surviving: Floats, undefined: float) -> float | None:
    """First time at which no more than a half survive; None where that never is."""
    below = np.flatnonzero(np.nan_to_num(surviving, nan=undefined) <= 0.5 + 1e-12)
    return float(times[below[0]]) if below.size else None


def restricted_mean(times: ArrayLike, limit: ArrayLike, level: float = LEVEL) -> Interval:
    """Mean time within a budget: of min(time, limit), with Student's t interval.

    `times` (N,) is NaN where the target was not reached within `limit` (N,). With all censored at
    the limit it is the area under the Kaplan-Meier curve up to there (Irwin, 1949; Royston and
    Parmar, 2013): what a training takes on average if it is given up at its budget.
    """
    values, limits = np.asarray(times, dtype=float), np.asarray(limit, dtype=float)
    return interval(np.fmin(values, limits), level)
