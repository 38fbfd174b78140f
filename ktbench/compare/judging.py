"""Differences with intervals, and which of them are clear among many; pure functions.

Values are written so that more is better: accuracies as they are, times as minus their logarithm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ktbench import stats

Verdict = Literal["regression", "worse", "better", "no clear change", "same", "cannot be judged"]
How = Literal["paired", "unpaired"]

_ALPHA = 1 - stats.LEVEL + 1e-12


@dataclass(frozen=True)
class Outcomes:
    """Values of one side by seed; those of `failed` seeds stand at `chance` level."""

    values: Mapping[int, float]
    failed: frozenset[int] = frozenset()
    chance: float = float("nan")


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
    arrived: float | None = None
    """Mean difference over the pairs in which both sides finished, where some did not."""


def difference(before: Outcomes, after: Outcomes, limit: float) -> Difference:
    """Compare values by seed: paired over shared seeds, else by Welch's test (1947).

    `limit`: how much worse is allowed, 0 or more. Fewer than `stats.LEAST_SEEDS` give no p; where
    too few seeds are shared for one, sides that have enough are compared unpaired.
    """
    shared = sorted(before.values.keys() & after.values.keys())
    enough = min(len(before.values), len(after.values)) >= stats.LEAST_SEEDS
    if len(shared) >= stats.LEAST_SEEDS or (shared and not enough):
        return _paired(before, after, shared, limit)
    apart = unpaired(list(before.values.values()), list(after.values.values()), limit)
    return apart if enough else replace(apart, p=None, p_limit=None)


def _paired(before: Outcomes, after: Outcomes, shared: list[int], limit: float) -> Difference:
    """Judge the shared seeds by intention to treat, as the report does its gains."""
    old, new = (np.array([side.values[seed] for seed in shared]) for side in (before, after))
    lost = [np.array([seed in side.failed for seed in shared]) for side in (after, before)]
    group, chance = np.zeros(len(shared), dtype=np.int64), np.full(len(shared), after.chance)
    level, beyond = (
        stats.judge_by_intention(stats.Pairs(group, new + by, old, lost[0], lost[1], chance), 1)
        for by in (0, limit)
    )
    low, high, p, p_limit, arrived = (
        None if np.isnan(value[0]) else float(value[0])
        for value in (level.low, level.high, level.p, beyond.p, level.arrived.mean)
    )
    some_failed = bool(lost[0].any() or lost[1].any())
    return Difference(
        mean=float(level.mean[0]),
        low=low,
        high=high,
        how="paired",
        n_before=len(shared),
        n_after=len(shared),
        p=p,
        p_limit=p_limit,
        equal=bool((new == old).all()),
        arrived=arrived if some_failed else None,
    )


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
