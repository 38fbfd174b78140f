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
    """After minus before: its mean, bounds, and the p of no change and of the limit."""

    mean: float
    low: float | None
    high: float | None
    how: How
    n_before: int
    n_after: int
    p: float | None
    """Of a mean of zero; None where there is no interval."""
    p_limit: float | None
    """Of a mean that is exactly at the limit."""
    equal: bool
    """Whether every pair is equal, to the last bit."""


def difference(before: Mapping[int, float], after: Mapping[int, float], limit: float) -> Difference:
    """Of values by seed: paired over the seeds that both have, else Welch's (1947).

    `limit`: how much worse is allowed, 0 or more. One shared seed makes no interval, so where both
    sides have more seeds than that they are compared unpaired.
    """
    shared = sorted(before.keys() & after.keys())
    many = min(len(before), len(after)) >= _LEAST_SHARED
    if len(shared) >= _LEAST_SHARED or (shared and not many):
        found = np.array([after[seed] - before[seed] for seed in shared])
        return _paired(found, limit)
    return unpaired(list(before.values()), list(after.values()), limit)


def _paired(found: NDArray[np.float64], limit: float) -> Difference:
    one = np.zeros(len(found), dtype=int)
    it, n = stats.interval(found), len(found)
    equal = bool((found == 0).all())
    if it.low is None:
        return Difference(it.mean, None, None, "paired", n, n, None, None, equal)
    p, p_limit = (float(stats.t_test(stats.intervals(found + by, one, 1))[0]) for by in (0, limit))
    return Difference(it.mean, it.low, it.high, "paired", n, n, p, p_limit, equal)


def unpaired(before: Sequence[float], after: Sequence[float], limit: float) -> Difference:
    """Of independent values whose spreads may differ."""
    zero = stats.welch(before, after)
    p_limit = stats.welch(before, np.asarray(after) + limit).p
    bounds, sizes = (zero.low, zero.high), (zero.n_before, zero.n_after)
    return Difference(zero.mean, *bounds, "unpaired", *sizes, zero.p, p_limit, equal=False)


def verdicts(found: Sequence[Difference], limit: float) -> list[Verdict]:
    """What can be said of each with one error rate for all of them (Holm, 1979)."""
    changed = _holm([d.p for d in found])
    beyond = _holm([d.p_limit for d in found])
    return [
        _verdict(d, limit, clear=p <= _ALPHA, beyond=q <= _ALPHA)
        for d, p, q in zip(found, changed, beyond, strict=True)
    ]


def _verdict(found: Difference, limit: float, *, clear: bool, beyond: bool) -> Verdict:
    if found.equal:
        return "same"
    if found.p is None:
        return "cannot be judged"
    if beyond and found.mean < -limit:
        return "regression"
    if not clear:
        return "no clear change"
    return "better" if found.mean > 0 else "worse"


def _holm(ps: Sequence[float | None]) -> NDArray[np.float64]:
    """Adjusted p; that of what has none is infinite."""
    adjusted = stats.holm([np.nan if p is None else p for p in ps])
    return np.where(np.isnan(adjusted), np.inf, adjusted)
