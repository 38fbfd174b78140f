"""Comparisons judged after every seed: which are decided, which go on, which need not go on.

A test that may be read after every seed needs another bound than one that is read once. A
comparison is decided early by an e-value, which may be read at any time, and at its last seed by
Student's t; the two share the error.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from ktbench.stats.hypothesis_tests import holm, signs_at
from ktbench.stats.intervals import LEVEL, NO_SPREAD, Floats, Intervals, Sign

State = Literal["open", "decided", "hopeless", "exhausted"]

EFFECT_VARIANCE = 3.0
"""Variance of the effects that the e-value expects, in variances of a difference: the evidence
grows fastest for effects of one to four standard deviations."""

EARLY_SHARE = 0.2
"""Share of the error that decisions before the last seed may spend."""

_HOPE = 1.0
"""Standard errors by which an effect is assumed to be larger than it looks, before it is given
up."""


@dataclass(frozen=True)
class SeedRule:
    """Number of seeds that a comparison gets: at least `start`, at most `most`, else as it needs.

    `level` of the whole table: no false sign in it with this probability or more.
    """

    start: int = 3
    most: int = 20
    level: float = LEVEL

    def __post_init__(self) -> None:
        if not 2 <= self.start <= self.most:
            raise ValueError(f"start must be 2 to most, not {self.start} of {self.most}")

    @property
    def early(self) -> float:
        """Error that decisions before the last seed may spend, over the whole table."""
        return EARLY_SHARE * (1 - self.level)

    @property
    def last(self) -> float:
        """Error that decisions at the last seed may spend, over the whole table."""
        return (1 - EARLY_SHARE) * (1 - self.level)


@dataclass(frozen=True)
class Standing:
    """State of each comparison of a table; (K,) each.

    `states`: `open` needs another seed, `decided` has a sign, `hopeless` would hardly get one,
    `exhausted` has all its seeds and no sign. `sign` of those decided. `evidence`: natural
    logarithm of the e-value. `low`, `high`: an interval that holds the true mean at every number of
    seeds at once, of this comparison alone; infinite where the seeds are too few to bound it.
    """

    states: list[State]
    sign: list[Sign]
    evidence: Floats
    low: Floats
    high: Floats


def log_e_value(groups: Intervals, against: ArrayLike = 0.0) -> Floats:
    """Logarithm of the e-value against the mean of each group's differences being `against`.

    The likelihood of normal differences whose effect (mean over standard deviation) is itself
    normal with variance g = `EFFECT_VARIANCE`, over that of no effect, with the right Haar prior
    1/σ on the standard deviation on both sides. With S the sum of the n squares and m the mean:

        (1 + ng)^(-1/2) · (S / (S - n m² · ng / (1 + ng)))^(n/2)

    If the mean is `against`, its expectation is 1 at any number of seeds, whatever σ is, and it
    passes 1/a with probability a at most (Ville), as long as the seeds go on or stop by this
    comparison's own t statistics (Lai, Annals of Statistics 4, 1976; Pérez-Ortiz, Lardy, de Heide
    and Grünwald, Annals of Statistics 52, 2024). NaN below two values and without a spread.
    """
    n = np.asarray(groups.n, dtype=float)
    mean, variance = groups.mean - np.asarray(against, dtype=float), np.square(groups.deviation)
    grown = 1 + n * EFFECT_VARIANCE
    with np.errstate(invalid="ignore", divide="ignore"):
        rest = (n - 1) * variance
        explained = n * np.square(mean)
        ratio = (rest + explained) / (rest + explained / grown)
        value = (n * np.log(ratio) - np.log(grown)) / 2
    known = (n >= 2) & (groups.deviation > NO_SPREAD)
    return np.where(known, value, np.nan)


def anytime_interval(groups: Intervals, alpha: float) -> tuple[Floats, Floats]:
    """Bounds that hold the true mean at every number of seeds at once, with 1 - alpha or more.

    The means that `log_e_value` does not exclude at 1/alpha; infinite where it excludes none.
    """
    n = np.asarray(groups.n, dtype=float)
    grown = 1 + n * EFFECT_VARIANCE
    with np.errstate(invalid="ignore", divide="ignore"):
        # The ratio of squares at which the e-value is 1/alpha, solved for the distance.
        ratio = np.power(np.sqrt(grown) / alpha, 2 / n)
        free = (n - 1) * np.square(groups.deviation) * (ratio - 1)
        held = n * (1 - ratio / grown)
        half = np.where(held > 0, np.sqrt(free / held), np.inf)
    half = np.where((n >= 2) & (groups.deviation > NO_SPREAD), half, np.inf)
    return groups.mean - half, groups.mean + half


def closed_evidence(log_e: ArrayLike) -> Floats:
    """Logarithms of e-values corrected for their number, by closed testing with averages.

    Rejecting what is at least log(1/a) keeps the chance of any false rejection at a, however the
    comparisons depend on each other (Vovk and Wang, Annals of Statistics 49, 2021, algorithm 1).
    Each is averaged with the worst set of others, which is one of the smallest ones. NaN count as
    no evidence (an e-value of 1) and stay NaN.
    """
    values = np.asarray(log_e, dtype=float)
    plain = np.exp(np.minimum(np.nan_to_num(values, nan=0.0), 600.0))
    smallest = np.concatenate([[0.0], np.cumsum(np.sort(plain))])
    counts = np.arange(len(smallest))
    # From the item itself on, the smallest only raise the average: it may be among them.
    worst = np.min((plain[:, None] + smallest[None, :]) / (counts + 1), axis=1)
    corrected: Floats = np.where(np.isnan(values), np.nan, np.log(worst))
    return corrected


def standing(groups: Intervals, rule: SeedRule, done: NDArray[np.bool_] | None = None) -> Standing:
    """Judge a table after any number of seeds of each comparison.

    groups (K): the paired differences so far. A comparison stops by its own figures alone: when its
    e-value passes K / `rule.early`, when even an effect one standard error larger than it looks
    would leave it open at the last seed (this spends no error), or at the last seed. There, those
    that are not decided are judged by Student's t and Holm's rule at `rule.last`. The chance of any
    false sign is at most the sum of both errors (Haybittle and Peto's way to stop a trial, by
    e-values). `done`: comparisons whose seeds have ended for other reasons.
    """
    count = len(groups.n)
    n, evidence = np.asarray(groups.n), log_e_value(groups)
    last = n >= rule.most
    sufficient = np.log(max(count, 1) / rule.early)
    early = (np.nan_to_num(evidence, nan=-np.inf) >= sufficient) & (n >= rule.start)
    ended = last if done is None else last | done
    hopeless = (n >= rule.start) & ~ended & ~early & _hopeless(groups, rule, count)
    if (early | hopeless | ended).all():
        # All have stopped: their e-values bear each other out.
        early |= np.nan_to_num(closed_evidence(evidence), nan=-np.inf) >= -np.log(rule.early)
    with np.errstate(invalid="ignore", divide="ignore"):
        t = groups.mean / (groups.deviation / np.sqrt(n))
    p = 2 * special.stdtr(np.maximum(n - 1, 1), -np.abs(t))
    # Comparisons that stopped before keep their place in the family as far as they are undecided.
    p = np.where(last & (groups.deviation > NO_SPREAD), p, 1.0)
    adjusted = holm(np.where(early, np.nan, p))
    late = np.nan_to_num(adjusted, nan=1.0) <= rule.last
    decided = early | late
    states: list[State] = list(
        np.select([decided, ended, hopeless], ["decided", "exhausted", "hopeless"], "open")
    )
    sign = signs_at(groups.mean, np.where(decided, 0.0, 1.0))
    low, high = anytime_interval(groups, 1 - rule.level)
    return Standing(states, sign, evidence, low, high)


def _hopeless(groups: Intervals, rule: SeedRule, count: int) -> NDArray[np.bool_]:
    """Comparisons that the last seed would hardly decide, even if their effect is larger."""
    n = np.asarray(groups.n, dtype=float)
    with np.errstate(invalid="ignore", divide="ignore"):
        effect = np.abs(groups.mean) / groups.deviation
        error = np.sqrt(1 / n + np.square(effect) / (2 * n))
        hoped = (effect + _HOPE * error) * np.sqrt(rule.most)
    needed = special.stdtrit(rule.most - 1, 1 - rule.last / max(count, 1) / 2)
    known = groups.deviation > NO_SPREAD
    return np.where(known, hoped < needed, False)
