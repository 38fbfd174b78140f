"""Intention to treat: trainings that fail count at chance level, and their risk in the interval.

A mean over the seeds that arrived is the gain of a technique *where it arrives*. Counting failed
seeds at chance level gives the gain of deciding for it, which is what a reader of a verdict does
(Hollis and Campbell, BMJ 319, 1999). Such gains have two humps, far apart, and five of them no
normal mean: `risk_intervals` treats the share of failures and the gain of the rest separately.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from ktbench.stats.intervals import LEVEL, Floats, Intervals

_WIDEST = 40.0
"""Normal quantile up to which p-values are searched; beyond it they are 0 in double precision."""
_HALVINGS = 60


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
class Failing:
    """Seeds of both sides of each comparison, entries are groups (G,)."""

    n: NDArray[np.int64]
    """Pairs whose both sides arrived or failed by themselves."""
    treated: NDArray[np.int64]
    """Pairs whose treated side failed."""
    baseline: NDArray[np.int64]
    """Pairs whose baseline failed."""
    treated_drop: Floats
    """What a failure of the treated side costs: its mean accuracy minus chance."""
    baseline_drop: Floats
    """The same of the baseline."""
    spread: Floats
    """Standard deviation of one gain, for groups in which fewer than two pairs arrived."""


def risk_intervals(
    mean: Floats,
    arrived: Intervals,
    failing: Failing,
    level: float = LEVEL,
    *,
    baseline: bool = True,
) -> tuple[Floats, Floats]:
    """Interval of the gain by intention to treat, with the risk of failures not seen.

    Square-and-add (Newcombe, Statistics in Medicine 17, 1998; Zou and Donner, 27, 2008): the
    squared distances that Wilson's bounds of each side's share of failures, and the t bounds of
    the gain where both arrived, put between the mean and a bound are added. `mean` (G,) counts
    failures at chance level, `arrived` are the gains of the pairs that arrived. Without `baseline`
    no transfer counts as one that does not fail unseen. NaN where nothing tells a spread.

    Coverage, measured by `benchmarks/failing_seeds.py`: 94 to 97 % where a fifth of the trainings
    of both sides fail.
    """
    return _bounds_at(mean, arrived, failing, np.full(len(mean), _normal(level)), baseline)


def risk_p(mean: Floats, arrived: Intervals, failing: Failing) -> Floats:
    """Two-sided p of each gain by intention to treat: the level at which its interval meets zero.

    NaN where there is no interval.
    """
    low, high = np.zeros(len(mean)), np.full(len(mean), _WIDEST)
    for _ in range(_HALVINGS):  # the interval grows with z
        z = (low + high) / 2
        lower, upper = _bounds_at(mean, arrived, failing, z, True)
        outside = (lower > 0) | (upper < 0)
        low, high = np.where(outside, z, low), np.where(outside, high, z)
    lower, _upper = _bounds_at(mean, arrived, failing, low, True)
    p: Floats = np.where(np.isnan(lower) | np.isnan(mean), np.nan, 2 * special.ndtr(-low))
    return p


def _bounds_at(
    mean: Floats, arrived: Intervals, failing: Failing, z: Floats, baseline: bool
) -> tuple[Floats, Floats]:
    """Bounds at the level of the normal quantile z (G,)."""
    n = failing.n.astype(float)
    shares = failing.treated / np.maximum(n, 1), failing.baseline / np.maximum(n, 1)
    treated_low, treated_high = _wilson_at(failing.treated.astype(float), n, z)
    base_low, base_high = _wilson_at(failing.baseline.astype(float), n, z)
    if not baseline:
        unseen = failing.baseline == 0
        base_low, base_high = (np.where(unseen, 0.0, bound) for bound in (base_low, base_high))
    half = (1 - shares[0]) * _half(arrived, failing, z)
    down = np.sqrt(
        ((treated_high - shares[0]) * failing.treated_drop) ** 2
        + ((shares[1] - base_low) * failing.baseline_drop) ** 2
        + half**2
    )
    up = np.sqrt(
        ((shares[0] - treated_low) * failing.treated_drop) ** 2
        + ((base_high - shares[1]) * failing.baseline_drop) ** 2
        + half**2
    )
    return mean - down, mean + up


def _half(arrived: Intervals, failing: Failing, z: Floats) -> Floats:
    """Half the t interval of the gains that arrived, at the level of z.

    Below two of them, the stand-in's spread with the degrees of freedom of all pairs.
    """
    few = (arrived.n < 2) | np.isnan(arrived.deviation)
    deviation = np.where(few, failing.spread, arrived.deviation)
    freedom = np.maximum(np.where(few, failing.n, arrived.n) - 1, 1)
    quantile = -special.stdtrit(freedom, special.ndtr(-z))
    half: Floats = quantile * deviation / np.sqrt(np.maximum(arrived.n, 1))
    return half
