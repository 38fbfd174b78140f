"""Tests of means against zero, and their correction for a family of many."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from ktbench.stats.intervals import LEAST_SEEDS, LEVEL, Floats, Intervals, Sign

MOST_FLIPPED = 16
"""Largest sample whose sign assignments are all enumerated: 32,768 mirrored pairs of them."""


def t_test(groups: Intervals) -> Floats:
    """Two-sided p of each group's mean against zero by Student's t.

    NaN where it has no interval, and below `LEAST_SEEDS` values, from which nothing is decided.
    It assumes normal differences, which five of them cannot show; `sign_flip_test` does not, but
    five values never bring it below 2 / 2⁵.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        t = groups.mean / (groups.deviation / np.sqrt(groups.n))
    p: Floats = 2 * special.stdtr(np.maximum(groups.n - 1, 1), -np.abs(t))
    return np.where(groups.n >= LEAST_SEEDS, p, np.nan)


def sign_flip_test(values: ArrayLike) -> float | None:
    """Exact two-sided p of a mean against zero, over all 2ⁿ assignments of signs to n differences.

    Under the null, each paired difference is as likely with the other sign (Fisher's
    randomisation test). The values' own signs are one assignment, so p is at least 2 / 2ⁿ and
    never 0; assignments that tie count as at least as far from zero. None without values, with
    more than `MOST_FLIPPED`, or with one that is not finite.

    `scipy.stats.permutation_test` is not used: rounding of the sums would decide its ties.
    """
    sizes = np.abs(np.asarray(values, dtype=float))
    if not 0 < sizes.size <= MOST_FLIPPED or not np.isfinite(sizes).all():
        return None
    # Sums with the first sign kept: the other half mirrors them.
    sums = sizes[:1]
    for value in sizes[1:]:
        sums = np.concatenate([sums + value, sums - value])
    observed = abs(float(np.sum(np.asarray(values, dtype=float))))
    rounding = 1e-9 * float(sizes.sum())
    return float(np.mean(np.abs(sums) >= observed - rounding))


def least_sign_flip_p(n: int) -> float:
    """Smallest p that `sign_flip_test` can give for n values: 2 / 2ⁿ, 1 for one value."""
    return min(1.0, 2.0 ** (1 - n))


def holm(p: ArrayLike) -> Floats:
    """Holm's step-down adjusted p of a family of tests (Holm, 1979); NaN stay NaN, and outside.

    Rejecting what is at most alpha keeps the chance of any false rejection in the family at
    alpha or below, however the tests depend on each other (those of a matrix share baselines).
    Raises ValueError for what is no p. scipy has no such adjustment.
    """
    values = np.asarray(p, dtype=float)
    tested = np.flatnonzero(~np.isnan(values))
    order = tested[np.argsort(values[tested], kind="stable")]
    ascending = values[order]
    if ascending.size and not (ascending[0] >= 0 and ascending[-1] <= 1):
        raise ValueError("a p lies between 0 and 1")
    adjusted = np.full(values.shape, np.nan)
    steps = ascending * np.arange(ascending.size, 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0) if steps.size else steps
    return adjusted


def signs_at(mean: ArrayLike, adjusted: ArrayLike, level: float = LEVEL) -> list[Sign]:
    """Sign of each mean whose adjusted p is at most 1 - level; unknown where p is NaN."""
    means, p = np.asarray(mean, dtype=float), np.asarray(adjusted, dtype=float)
    clear = p <= 1 - level + 1e-12  # 1 - 0.95 is a little more than 0.05
    chosen = np.select(
        [np.isnan(p), clear & (means > 0), clear & (means < 0)],
        ["unknown", "positive", "negative"],
        "none",
    )
    return list(chosen)


def next_alpha(adjusted: ArrayLike, level: float = LEVEL) -> float:
    """Largest p at which Holm would reject the next test of a family.

    (1 - level) over the tests not rejected yet: enough whatever becomes of the others, as long as
    those rejected stay so.
    """
    p = np.asarray(adjusted, dtype=float)
    tested = p[~np.isnan(p)]
    not_rejected = int((tested > 1 - level + 1e-12).sum())
    return (1 - level) / max(not_rejected, 1)
