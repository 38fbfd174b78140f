"""Multiple comparisons with the best: which techniques may be the best, and how far behind."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from ktbench.stats.all_pairs import paired_differences
from ktbench.stats.cost_quality import Bools
from ktbench.stats.intervals import LEVEL, Floats


@dataclass(frozen=True)
class BestSet:
    """The techniques that are best or not clearly worse than the best; (K,) each.

    `inside` holds the truly best technique with probability `level` or more. `p`: of being the
    best, by the rival that beats the technique most clearly, times the number of rivals.
    `behind`: with the same confidence, for all techniques at once, the most by which each may lie
    behind the best; infinite where a rival that may be best cannot be compared with it.
    `judged`: whether it could be compared with any rival; what could not be is inside.
    """

    inside: Bools
    p: Floats
    behind: Floats
    judged: Bools


def best_set(table: ArrayLike, failed: ArrayLike | None = None, level: float = LEVEL) -> BestSet:
    """Leave out each technique to which some other is clearly superior.

    table (K, S): technique by seed, higher is better, NaN where there is no figure; failed
    (K,): techniques with a failed cell that counts as a figure.

    Hsu's constrained multiple comparisons with the best (Annals of Statistics 12, 1984) for paired
    designs, by Bonferroni's inequality over the K - 1 rivals of each technique (Clark and Yang,
    1986; Nelson and Matejcik, Management Science 41, 1995). Each pair has its own variance, so
    neither equal spreads nor independence is assumed, only normal paired differences. No
    correction over techniques is needed: the set misses the best only where the best itself is
    left out. A pair that `paired_differences` does not judge leaves out nothing.
    """
    values = np.asarray(table, dtype=float)
    count = len(values)
    if count < 2:
        none = np.zeros(count, dtype=bool)
        return BestSet(~none, np.ones(count), np.zeros(count), none)
    item, rival = np.nonzero(~np.eye(count, dtype=bool))
    lead = paired_differences(values, rival, item, failed)  # of the rival over the item
    freedom = np.maximum(lead.n - 1, 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        error = lead.deviation / np.sqrt(lead.n)
        p = np.nan_to_num(special.stdtr(freedom, -lead.mean / error), nan=1.0)
    smallest = np.minimum((count - 1) * p.reshape(count, -1).min(axis=1), 1.0)
    inside = smallest > 1 - level + 1e-12
    margin = special.stdtrit(freedom, 1 - (1 - level) / (count - 1)) * error
    worst = np.where(np.isnan(margin), np.inf, lead.mean + margin)
    # Only a rival that may be the best can be far ahead of the best: the others do not count.
    worst = np.where(inside[rival], worst, -np.inf).reshape(count, -1).max(axis=1)
    judged: Bools = np.logical_or.reduce(np.isfinite(error).reshape(count, -1), axis=1)
    return BestSet(inside, smallest, np.maximum(worst, 0.0), judged)
