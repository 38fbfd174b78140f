"""Techniques ranked on several students: Friedman's test and Nemenyi's comparisons."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike

from ktbench.stats.cost_quality import Bools
from ktbench.stats.intervals import LEVEL, Floats

LEAST_RANKED = 3
"""Fewest students, and fewest techniques, whose ranks are tested."""

_SHUFFLES = 9_999
_SEED = 1937  # the year of Friedman's paper


@dataclass(frozen=True)
class MeanRanks:
    """Ranks of techniques over `students`; 1 is the best, ties share their mean.

    rank (K,): mean over students. `p`: that no technique tends to rank above another. Mean ranks
    that lie `critical_difference` or more apart differ clearly among all pairs (Nemenyi).
    """

    rank: Floats
    p: float
    critical_difference: float
    students: int

    @property
    def differ(self) -> Bools:
        """Pairs of techniques whose ranks differ clearly, (K, K)."""
        clear: Bools = np.abs(self.rank[:, None] - self.rank) >= self.critical_difference
        return clear

    def p_pairs(self) -> Floats:
        """Nemenyi's p of each pair, (K, K), adjusted for all of them; an integral for each."""
        from scipy.stats import studentized_range  # half a second, which few reports need

        count = len(self.rank)
        apart = np.abs(self.rank[:, None] - self.rank) / _error(self.students, count)
        p: Floats = studentized_range.sf(apart * np.sqrt(2), count, np.inf)
        return p


def _error(students: int, techniques: int) -> float:
    """Standard deviation of the difference of two mean ranks where all rank alike."""
    return float(np.sqrt(techniques * (techniques + 1) / (6 * students)))


def mean_ranks(table: ArrayLike, level: float = LEVEL) -> MeanRanks:
    """Rank techniques within each student, and test the ranks over students.

    table (N, K): student by technique, without NaN, higher is better. Raises ValueError below
    `LEAST_RANKED` of either.

    Friedman's test (1937) by shuffling the ranks within each student, as its chi-square holds for
    many students only; Nemenyi's by the studentised range with infinite degrees of freedom (Demšar,
    JMLR 7, 2006, section 3.2.2), which is cautious for few. Students are the sample, so the answer
    is about further students of this kind, and three of them can show little.
    """
    from scipy.stats import rankdata, studentized_range  # half a second, which few reports need

    values = np.asarray(table, dtype=float)
    students, techniques = values.shape
    if min(students, techniques) < LEAST_RANKED or np.isnan(values).any():
        raise ValueError("ranks need three students and three techniques, without gaps")
    ranks: Floats = rankdata(-values, axis=1)
    rank = ranks.mean(axis=0)
    quantile = float(studentized_range.ppf(level, techniques, np.inf))
    critical = quantile / np.sqrt(2) * _error(students, techniques)
    return MeanRanks(rank, _friedman_p(ranks), float(critical), students)


def _friedman_p(ranks: Floats) -> float:
    """Share of shuffled tables whose ranks differ at least as much between techniques.

    The sum of squared rank sums orders tables as Friedman's statistic does, ties included. The
    table itself counts as a shuffle, so p is never 0. The order of techniques does not matter.
    """
    shuffled = _shuffled(tuple(tuple(np.sort(own).tolist()) for own in ranks))
    observed = float((ranks.sum(axis=0) ** 2).sum())
    at_least = int((shuffled >= observed - 1e-6).sum())
    return (at_least + 1) / (_SHUFFLES + 1)


@lru_cache(maxsize=16)
def _shuffled(ranks: tuple[tuple[float, ...], ...]) -> Floats:
    """Sums of squared rank sums of shuffled tables, (9,999,); always the same shuffles."""
    draws = np.random.default_rng(_SEED)
    sums = np.zeros((_SHUFFLES, len(ranks[0])))
    for own in ranks:
        sums += draws.permuted(np.tile(own, (_SHUFFLES, 1)), axis=1)
    squares: Floats = (sums**2).sum(axis=1)
    return squares
