"""Every technique against every other: paired differences as one family, and compact letters."""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ktbench.stats.cost_quality import Bools
from ktbench.stats.hypothesis_tests import holm, signs_at, t_test
from ktbench.stats.intervals import (
    LEAST_SEEDS,
    LEVEL,
    NO_SPREAD,
    Floats,
    Intervals,
    Sign,
    half_widths,
)

LEAST_WITH_FAILURES = 5
"""`LEAST_SEEDS` where a failed cell counts for either: a technique that fails in a fifth of its
cells fails in all of three seeds once in 125 studies, and then looks worse than it is."""

_LETTERS = string.ascii_lowercase + string.ascii_uppercase


@dataclass(frozen=True)
class TechniquePairs:
    """Paired differences of all pairs of one table's techniques, first minus second; (P,) each.

    `adjusted` and `sign` are Holm's over the family of all tables that were given together. p and
    bounds are NaN and the sign unknown for a pair that `paired_differences` does not judge.
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    interval: Intervals
    """Each pair's own t interval: not adjusted."""
    p: Floats
    """Two-sided, Student's t."""
    adjusted: Floats
    sign: list[Sign]


def paired_differences(
    table: Floats,
    first: NDArray[np.int64],
    second: NDArray[np.int64],
    failed: ArrayLike | None = None,
    level: float = LEVEL,
) -> Intervals:
    """Mean difference with its t interval of each pair of rows, over the columns that both have.

    table (K, S): technique by seed, NaN where there is no figure; first, second (P,): rows; failed
    (K,): techniques with a failed cell that counts as a figure. Bounds are NaN, so that the pair is
    not judged, below `LEAST_SEEDS` shared seeds (`LEAST_WITH_FAILURES`) and without a spread.
    """
    differences = table[first] - table[second]  # (P, S)
    is_shared = ~np.isnan(differences)
    n = is_shared.sum(axis=1)
    fails = np.zeros(len(table), dtype=bool) if failed is None else np.asarray(failed, dtype=bool)
    least = np.where(fails[first] | fails[second], LEAST_WITH_FAILURES, LEAST_SEEDS)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(is_shared, differences, 0.0).sum(axis=1) / n
        squares = np.where(is_shared, (differences - mean[:, None]) ** 2, 0.0).sum(axis=1)
        deviation = np.sqrt(squares / (n - 1))
    deviation = np.where((n >= least) & (deviation > NO_SPREAD), deviation, np.nan)
    half = half_widths(n, deviation, level)
    return Intervals(mean, mean - half, mean + half, n.astype(np.int64), deviation)


def all_pairs(
    tables: Sequence[ArrayLike],
    failed: Sequence[ArrayLike] | None = None,
    level: float = LEVEL,
) -> list[TechniquePairs]:
    """Compare every two techniques within each table, all tables together as one family.

    tables: (K, S) each, technique by seed, NaN where there is no figure; failed: (K,) each, as in
    `paired_differences`. Two-sided paired t tests with each pair's own variance, as techniques
    differ in spread; Holm's step-down keeps the chance of any false sign in all tables at
    1 - level, however the pairs depend on each other.
    """
    compared = []
    for number, table in enumerate(tables):
        values = np.asarray(table, dtype=float)
        first, second = np.triu_indices(len(values), 1)
        fails = None if failed is None else failed[number]
        compared.append((first, second, paired_differences(values, first, second, fails, level)))
    p = [t_test(interval) for _, _, interval in compared]
    adjusted = holm(np.concatenate([np.empty(0), *p]))
    split = np.split(adjusted, np.cumsum([len(own) for own in p])[:-1]) if p else []
    return [
        TechniquePairs(
            first, second, interval, own, among_all, signs_at(interval.mean, among_all, level)
        )
        for (first, second, interval), own, among_all in zip(compared, p, split, strict=True)
    ]


def compact_letters(order: Sequence[int], differ: ArrayLike) -> list[str] | None:
    """Letters for items 0 to K - 1: two items share one exactly where they do not differ.

    order: items from the best on, so that `a` goes to the best; differ (K, K): symmetric, bool. A
    cover of the graph of pairs that do not differ by cliques, each grown greedily in that order
    from a pair without a common letter (Piepho, 2004; Gramm et al., 2007, as a clique cover). None
    where more than 52 letters would be needed.
    """
    alike = ~np.asarray(differ, dtype=bool)
    np.fill_diagonal(alike, True)
    is_covered = np.zeros(alike.shape, dtype=bool)
    groups: list[list[int]] = []
    for place, item in enumerate(order):
        for other in order[place:]:
            if alike[item, other] and not is_covered[item, other]:
                group = _grown([item, other] if item != other else [item], order, alike)
                is_covered[np.ix_(group, group)] = True
                groups.append(group)
    if len(groups) > len(_LETTERS):
        return None
    letters = [""] * len(order)
    for letter, group in zip(_LETTERS, groups, strict=False):
        for item in group:
            letters[item] += letter
    return letters


def _grown(group: list[int], order: Sequence[int], alike: Bools) -> list[int]:
    """Return the group with every further item, in order, that is like all in it."""
    may_join: Bools = np.logical_and.reduce(alike[group], axis=0)
    for item in order:
        if may_join[item] and item not in group:
            group.append(item)
            may_join &= alike[item]
    return group
