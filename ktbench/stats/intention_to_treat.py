"""Intention to treat: trainings that fail count at chance level, and their risk in the interval.

A mean over the seeds that finished is the gain of a technique *where it finishes*. Counting failed
seeds at chance level gives the gain of deciding for it, which is what a reader of a verdict does
(Hollis and Campbell, BMJ 319, 1999). Such gains have two humps, far apart, and five of them no
normal mean: the share of failures and the gain of the rest are bounded separately, and added.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from ktbench.stats.cost_quality import Bools
from ktbench.stats.hypothesis_tests import t_test
from ktbench.stats.intervals import LEAST_SEEDS, LEVEL, Floats, Intervals, intervals

_WIDEST = 40.0
"""Normal quantile up to which p-values are searched; beyond it they are 0 in double precision."""
_HALVINGS = 48


def intention_to_treat(accuracy: ArrayLike, failed: ArrayLike, chance: ArrayLike) -> Floats:
    """Accuracies in which failed trainings count at chance level, 1 / classes.

    All (N,); `failed` marks trainings that the technique itself ended. What is missing for any
    other reason stays NaN.
    """
    values: Floats = np.where(
        np.asarray(failed, dtype=bool),
        np.asarray(chance, dtype=float),
        np.asarray(accuracy, dtype=float),
    )
    return values


def wilson(failures: ArrayLike, of: ArrayLike, level: float = LEVEL) -> tuple[Floats, Floats]:
    """Bounds of Wilson's score interval (1927) of a share, elementwise; NaN of nothing."""
    return _wilson_at(np.asarray(failures, float), np.asarray(of, float), _normal(level))


def _normal(level: float) -> float:
    return float(special.ndtri((1 + level) / 2))


def _wilson_at(failures: Floats, of: Floats, z: Floats | float) -> tuple[Floats, Floats]:
    with np.errstate(invalid="ignore", divide="ignore"):
        share = failures / of
        middle = share + z**2 / (2 * of)
        half = z * np.sqrt(share * (1 - share) / of + z**2 / (4 * of**2))
        scale = 1 + z**2 / of
        low, high = (middle - half) / scale, (middle + half) / scale
    return np.clip(low, 0, 1), np.clip(high, 0, 1)


def rare_failures(n: ArrayLike, level: float = LEVEL) -> Floats:
    """Largest share of failing trainings that n without a failure do not exclude: 1 - 0.05^(1/n).

    At 5 %, about 3 / n for many. No rule that calls a gain clear after n seeds without a failure
    can be wrong less often than (1 - share)^n where the failures undo the gain.
    """
    bound: Floats = 1 - (1 - level) ** (1 / np.asarray(n, dtype=float))
    return bound


def seeds_to_exclude(share: float, level: float = LEVEL) -> int:
    """Number of seeds without a failure that exclude this share of failing trainings."""
    return int(np.ceil(np.log(1 - level) / np.log1p(-share) - 1e-9))


@dataclass(frozen=True)
class Pairs:
    """Both sides of each seed, entries are pairs (N,); failures count at chance level."""

    group: NDArray[np.int64]
    treated: Floats
    baseline: Floats
    treated_failed: Bools
    baseline_failed: Bools
    chance: Floats


@dataclass(frozen=True)
class Judgement:
    """Gains by intention to treat, entries are groups (G,); NaN where there is nothing to judge."""

    mean: Floats
    low: Floats
    high: Floats
    p: Floats
    """Two-sided; NaN below `LEAST_SEEDS` pairs."""
    n: NDArray[np.int64]
    """Pairs, failed ones included."""
    failed: NDArray[np.int64]
    """Pairs whose treated side failed."""
    baseline_failed: NDArray[np.int64]
    arrived: Intervals
    """Gains where both sides finished, with Student's t interval: "per protocol"."""
    risk_low: Floats
    """Bounds that count what n seeds cannot exclude of failures by the treated side."""
    risk_high: Floats


def judge_by_intention(pairs: Pairs, count: int, level: float = LEVEL) -> Judgement:
    """Judge the gains of groups 0 to `count` - 1, failed trainings counted at chance level.

    Where nothing failed on either side, it is Student's t and speaks of trainings that finish.
    Elsewhere it is square-and-add (Newcombe, Statistics in Medicine 17, 1998; Zou and Donner, 27,
    2008): the squared distances that Wilson's bounds of each side's share of failures,
    and the t bounds of the gain where both finish, put between mean and bound are added; p is the
    level at which that interval meets zero. With fewer than two arrivals, sqrt(2) times one
    side's spread stands in for that of the gain, and a gain of zero for one never seen.
    Coverage is measured by `benchmarks/failing_seeds.py`. Without an interval there is no p.
    """
    gains = pairs.treated - pairs.baseline
    both = ~(pairs.treated_failed | pairs.baseline_failed)
    every = intervals(gains, pairs.group, count, level)
    arrived = intervals(gains[both], pairs.group[both], count, level)
    sides = _Sides.of(pairs, count, arrived)
    z = np.full(count, _normal(level))
    low, high = _bounds_at(every.mean, arrived, sides, z)
    risky = (sides.treated + sides.baseline) > 0
    p = t_test(every)
    if risky.any():  # the search takes far longer than all the rest
        p = np.where(risky, _p(every.mean, arrived, sides), p)
    risk_low, risk_high = _bounds_at(every.mean, arrived, sides, z, unseen_baseline=False)
    return Judgement(
        mean=every.mean,
        low=np.where(risky, low, every.low),
        high=np.where(risky, high, every.high),
        p=np.where(every.n >= LEAST_SEEDS, p, np.nan),
        n=every.n,
        failed=sides.treated.astype(np.int64),
        baseline_failed=sides.baseline.astype(np.int64),
        arrived=arrived,
        risk_low=risk_low,
        risk_high=risk_high,
    )


@dataclass(frozen=True)
class _Sides:
    """Failures of both sides of each group (G,)."""

    n: Floats
    treated: Floats
    """Failures of the treated side."""
    baseline: Floats
    treated_drop: Floats
    """Cost of a failure of the treated side: its mean accuracy minus chance."""
    baseline_drop: Floats
    spread: Floats
    """Standard deviation of one gain, where fewer than two pairs finished."""

    @classmethod
    def of(cls, pairs: Pairs, count: int, arrived: Intervals) -> _Sides:
        def total(mask: Bools) -> Floats:
            return np.bincount(pairs.group[mask], minlength=count).astype(float)

        def arrivals(values: Floats, failed: Bools) -> Intervals:
            return intervals((values - pairs.chance)[~failed], pairs.group[~failed], count)

        baseline = arrivals(pairs.baseline, pairs.baseline_failed)
        treated = arrivals(pairs.treated, pairs.treated_failed)
        drop = np.where(np.isnan(treated.mean), baseline.mean, treated.mean)
        lone = np.where(np.isnan(baseline.deviation), treated.deviation, baseline.deviation)
        return cls(
            n=total(np.ones(len(pairs.group), dtype=bool)),
            treated=total(pairs.treated_failed),
            baseline=total(pairs.baseline_failed),
            treated_drop=drop,
            baseline_drop=np.where(np.isnan(baseline.mean), drop, baseline.mean),
            spread=np.sqrt(2) * lone,
        )


def _p(mean: Floats, arrived: Intervals, sides: _Sides) -> Floats:
    """Two-sided p of each mean: the level at which its interval, growing with z, meets zero."""
    low, high = np.zeros(len(mean)), np.full(len(mean), _WIDEST)
    for _ in range(_HALVINGS):
        z = (low + high) / 2
        lower, upper = _bounds_at(mean, arrived, sides, z)
        outside = (lower > 0) | (upper < 0)
        low, high = np.where(outside, z, low), np.where(outside, high, z)
    lower, _upper = _bounds_at(mean, arrived, sides, high)
    p: Floats = np.where(np.isnan(lower), np.nan, 2 * special.ndtr(-low))
    return p


def _bounds_at(
    mean: Floats,
    arrived: Intervals,
    sides: _Sides,
    z: Floats,
    *,
    unseen_baseline: bool = True,
) -> tuple[Floats, Floats]:
    """Bounds at the level of the normal quantile z (G,).

    Without `unseen_baseline`, a baseline none of whose seeds failed counts as one that never does.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = sides.treated / sides.n, sides.baseline / sides.n
    treated_low, treated_high = _wilson_at(sides.treated, sides.n, z)
    base_low, base_high = _wilson_at(sides.baseline, sides.n, z)
    if not unseen_baseline:
        base_high = np.where(sides.baseline == 0, 0.0, base_high)
    half = (1 - shares[0]) * _half(arrived, sides, z)
    down = (treated_high - shares[0]) * sides.treated_drop, (shares[1] - base_low)
    up = (shares[0] - treated_low) * sides.treated_drop, (base_high - shares[1])
    lower, upper = (
        np.sqrt(treated**2 + (base * sides.baseline_drop) ** 2 + half**2)
        for treated, base in (down, up)
    )
    return mean - lower, mean + upper


def _half(arrived: Intervals, sides: _Sides, z: Floats) -> Floats:
    """Half the t interval of the pairs that finished, at the level of z."""
    few = np.isnan(arrived.deviation)
    deviation = np.where(few, sides.spread, arrived.deviation)
    freedom = np.maximum(np.where(few, sides.n, arrived.n) - 1, 1)
    half: Floats = -special.stdtrit(freedom, special.ndtr(-z)) * deviation
    return half / np.sqrt(np.maximum(arrived.n, 1))
