"""Simulated contests of techniques whose true order is known, and how often each rule errs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import studentized_range

from ktbench import stats
from ktbench.stats import Bools, Floats

SPREADS = (0.5, 0.71, 1.0, 1.41)
"""Standard deviations of techniques around their seed's mean, in turn."""
SEED_SPREAD = 2.0
"""What a seed does to all techniques alike: pairing removes it."""
CHANCE = -40.0
"""Accuracy of a failed cell, in the same unit: 40 times a usual paired spread below the others."""
FAILING = 0.2


@dataclass(frozen=True)
class Contest:
    """A study of `techniques` with `seeds`; the first technique leads by `lead`.

    Unit: the standard deviation of a usual paired difference. `failing` (K,): each technique's
    chance that a cell fails, which then counts as `CHANCE`.
    """

    techniques: int
    seeds: int
    lead: float = 0.0
    failing: Sequence[float] | float = 0.0

    def spreads(self) -> Floats:
        """Standard deviations of the techniques, whose usual pair differs by 1."""
        return np.resize(np.array(SPREADS), self.techniques) / 2**0.5

    def draw(self, rng: np.random.Generator) -> tuple[Floats, Bools]:
        """Return one table, technique by seed, and which techniques have failed cells."""
        size = (self.techniques, self.seeds)
        table = rng.normal(0, 1, size) * self.spreads()[:, None]
        table += rng.normal(0, SEED_SPREAD, (1, self.seeds))
        table[0] += self.lead
        chance = np.broadcast_to(np.asarray(self.failing, dtype=float), self.techniques)
        has_failed = rng.random(size) < chance[:, None]
        failed: Bools = np.logical_or.reduce(has_failed, axis=1)
        return np.where(has_failed, CHANCE, table), failed


@dataclass(frozen=True)
class Errors:
    """Shares of simulated tables."""

    false_pair: float
    """Any clear pair that is truly equal, or clear the wrong way round."""
    held: float
    """The truly best technique is in the set; where all are equal, those of the spread that is left
    out most often."""
    behind: float
    """The bounds on how far techniques lie behind the best hold for all at once."""
    beaten: float
    """Mean share of the truly inferior techniques that the set leaves out."""
    found_pairs: float
    """Mean share of the pairs with a true difference that come out clear."""


def errors(contest: Contest, tables: int, seed: int = 11) -> Errors:
    """Simulate a contest; `failing` must be the same for all techniques."""
    rng = np.random.default_rng(seed)
    inside = np.zeros(contest.techniques)
    false_pairs = behind = 0
    found = 0.0
    truly_behind = np.r_[0.0, np.full(contest.techniques - 1, contest.lead)]
    truly_behind *= 1 - float(np.max(contest.failing))
    for _ in range(tables):
        table, failed = contest.draw(rng)
        chosen = stats.best_set(table, failed)
        inside += chosen.inside
        behind += bool((truly_behind <= chosen.behind + 1e-12).all())
        [pairs] = stats.all_pairs([table], [failed])
        is_true = (pairs.first == 0) & (contest.lead > 0)
        sign = np.array(pairs.sign)
        clear = np.isin(sign, ("positive", "negative"))
        false_pairs += bool((clear & ~(is_true & (sign == "positive"))).any())
        found += float((is_true & (sign == "positive")).sum()) / (contest.techniques - 1)
    share = inside / tables
    alike = [share[place :: len(SPREADS)].mean() for place in range(len(SPREADS))]
    held = share[0] if contest.lead else min(alike)
    beaten = float(1 - share[1:].mean()) if contest.lead else 0.0
    return Errors(false_pairs / tables, float(held), behind / tables, beaten, found / tables)


Rule = Callable[[Floats], Bools]
"""Marks pairs of a table that it calls different, (P,) as `np.triu_indices` has them."""


def pooled(table: Floats) -> Bools:
    """Tukey's range test on the residuals of seeds and techniques: one variance for all pairs."""
    techniques, seeds = table.shape
    rest = table - table.mean(axis=0) - table.mean(axis=1)[:, None] + table.mean()
    freedom = (techniques - 1) * (seeds - 1)
    error = np.sqrt((rest**2).sum() / freedom / seeds)
    first, second = np.triu_indices(techniques, 1)
    mean = table.mean(axis=1)
    marked: Bools = np.abs(mean[first] - mean[second]) > _critical(techniques, freedom) * error
    return marked


_TABULATED: dict[tuple[int, int], float] = {}


def _critical(techniques: int, freedom: int) -> float:
    if (techniques, freedom) not in _TABULATED:
        value = float(studentized_range.ppf(stats.LEVEL, techniques, freedom))
        _TABULATED[techniques, freedom] = value
    return _TABULATED[techniques, freedom]


def pooled_false(contest: Contest, tables: int, seed: int = 11) -> float:
    """Share of tables without a difference in which `pooled` calls some pair different."""
    rng = np.random.default_rng(seed)
    return float(np.mean([pooled(contest.draw(rng)[0]).any() for _ in range(tables)]))


def held_against_gamblers(contest: Contest, tables: int, seed: int = 11) -> float:
    """How often the set holds the best where every rival is better but may fail.

    The first technique never fails and is truly the best once failures count.
    """
    rng = np.random.default_rng(seed)
    return float(np.mean([stats.best_set(*contest.draw(rng)).inside[0] for _ in range(tables)]))


def false_ranks(students: int, techniques: int, tables: int, seed: int = 11) -> tuple[float, float]:
    """Shares of tables of equal techniques that Friedman's test, and Nemenyi's, call different."""
    rng = np.random.default_rng(seed)
    friedman = nemenyi = 0
    for _ in range(tables):
        ranks = stats.mean_ranks(rng.normal(0, 1, (students, techniques)))
        friedman += ranks.p <= 1 - stats.LEVEL
        nemenyi += bool(ranks.differ.any())
    return friedman / tables, nemenyi / tables
