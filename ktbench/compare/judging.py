"""Differences with intervals, and which of them are clear among many; pure functions.

Values are written so that more is better: accuracies as they are, times as minus their logarithm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ktbench import stats

Verdict = Literal["regression", "worse", "better", "no clear change", "same", "cannot be judged"]
How = Literal["paired", "unpaired"]

_ALPHA = 1 - stats.LEVEL + 1e-12
_LEAST_SHARED = 2
"""Seeds that both sides need to be compared seed by seed."""


@dataclass(frozen=True)
class Difference:
    """Mean difference (after minus before) with its interval and p-values."""

    mean: float
    low: float | None
    high: float | None
    how: How
    n_before: int
    n_after: int
    p: float | None
    """p of the hypothesis that the mean is zero; None where there is no interval."""
    p_limit: float | None
    """p of the hypothesis that the mean is exactly at the limit."""
    equal: bool
    """True where every pair is equal, to the last bit."""


def difference(before: Mapping[int, float], after: Mapping[int, float], limit: float) -> Difference:
    """Compare values by seed: paired over shared seeds, else by Welch's test (1947).

    `limit`: how much worse is allowed, 0 or more. One shared seed makes no interval, so where both
    sides have more seeds than that they are compared unpaired.
    """
    shared = sorted(before.keys() & after.keys())
    many = min(len(before), len(after)) >= _LEAST_SHARED
    if len(shared) >= _LEAST_SHARED or (shared and not many):
        differences = np.array([after[seed] - before[seed] for seed in shared])
        return _paired(differences, limit)
    return unpaired(list(before.values()), list(after.values()), limit)


def _paired(differences: NDArray[np.float64], limit: float) -> Difference:
    group = np.zeros(len(differences), dtype=int)
    interval, n = stats.interval(differences), len(differences)
    equal = bool((differences == 0).all())
    if interval.low is None:
        return Difference(interval.mean, None, None, "paired", n, n, None, None, equal)
    p, p_limit = (
        float(stats.t_test(stats.intervals(differences + by, group, 1))[0]) for by in (0, limit)
    )
    return Difference(interval.mean, interval.low, interval.high, "paired", n, n, p, p_limit, equal)


def unpaired(before: Sequence[float], after: Sequence[float], limit: float) -> Difference:
    """Compare independent samples whose variances may differ (Welch)."""
    zero = stats.welch(before, after)
    p_limit = stats.welch(before, np.asarray(after) + limit).p
    bounds, sizes = (zero.low, zero.high), (zero.n_before, zero.n_after)
    return Difference(zero.mean, *bounds, "unpaired", *sizes, zero.p, p_limit, equal=False)


def verdicts(differences: Sequence[Difference], limit: float) -> list[Verdict]:
    """Judge each difference at one error rate for the whole family (Holm, 1979)."""
    changed = _holm([d.p for d in differences])
    beyond = _holm([d.p_limit for d in differences])
    return [
        _verdict(d, limit, clear=p <= _ALPHA, beyond=q <= _ALPHA)
        for d, p, q in zip(differences, changed, beyond, strict=True)
    ]


def _verdict(difference: Difference, limit: float, *, clear: bool, beyond: bool) -> Verdict:
    if difference.equal:
        return "same"
    if difference.p is None:
        return "cannot be judged"
    if beyond and difference.mean < -limit:
        return "regression"
    if not clear:
        return "no clear change"
    return "better" if difference.mean > 0 else "worse"


def _holm(p_values: Sequence[float | None]) -> NDArray[np.float64]:
    """Adjusted p-values; infinite where there is none."""
    adjusted = stats.holm([np.nan if p is None else p for p in p_values])
    return np.where(np.isnan(adjusted), np.inf, adjusted)
