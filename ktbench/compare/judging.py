"""Differences with intervals, and which of them are clear among many; pure functions.

Values are written so that more is better: accuracies as they are, times as minus their logarithm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats as tests

from ktbench.stats import LEVEL

Verdict = Literal["regression", "worse", "better", "no clear change", "same", "cannot be judged"]
How = Literal["paired", "unpaired"]

_ALPHA = 1 - LEVEL
_NO_SPREAD = 1e-12
"""Standard deviations up to this are rounding, as in `ktbench.stats`."""
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
    mean, n = float(found.mean()), len(found)
    equal = bool((found == 0).all())
    if n < 2 or found.std(ddof=1) <= _NO_SPREAD:
        return Difference(mean, None, None, "paired", n, n, None, None, equal)
    zero, at_limit = (tests.ttest_1samp(found, popmean) for popmean in (0.0, -limit))
    low, high = zero.confidence_interval(LEVEL)
    ps = (float(zero.pvalue), float(at_limit.pvalue))
    return Difference(mean, float(low), float(high), "paired", n, n, *ps, equal)


def unpaired(before: Sequence[float], after: Sequence[float], limit: float) -> Difference:
    """Of independent values whose spreads may differ."""
    old, new = np.asarray(before, dtype=float), np.asarray(after, dtype=float)
    mean = float(new.mean() - old.mean())
    sizes = (len(old), len(new))
    if min(sizes) < 2 or max(old.std(ddof=1), new.std(ddof=1)) <= _NO_SPREAD:
        return Difference(mean, None, None, "unpaired", *sizes, None, None, equal=False)
    zero = tests.ttest_ind(new, old, equal_var=False)
    at_limit = tests.ttest_ind(new + limit, old, equal_var=False)
    low, high = zero.confidence_interval(LEVEL)
    ps = (float(zero.pvalue), float(at_limit.pvalue))
    return Difference(mean, float(low), float(high), "unpaired", *sizes, *ps, equal=False)


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
    adjusted = np.full(len(ps), np.inf)
    known = sorted((p, i) for i, p in enumerate(ps) if p is not None)
    highest = 0.0
    for rank, (p, i) in enumerate(known):
        highest = max(highest, min(1.0, (len(known) - rank) * p))
        adjusted[i] = highest
    return adjusted
