"""Statistics of each gain: its sign among all, its effect size, the seeds to settle it."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ktbench import stats

UNDECIDED = ("none", "unknown")
"""Signs of comparisons that more seeds may settle."""


def judged(
    gains: stats.Floats, group: NDArray[np.int64], compared: stats.Bools, own: stats.Intervals
) -> pd.DataFrame:
    """One row per group: `sign`, p, effect size, and how many seeds would settle it.

    gains (N,), group (N,): a paired difference and its group; compared (G,): the groups that are
    one family, which leaves baselines out; own: each group's own interval. `alone` is the sign
    that this interval shows, `sign` the one that stays among the whole family (Holm).
    """
    inside = compared[group]
    differences = stats.differences(gains[inside], group[inside], len(compared))
    frame = pd.DataFrame({"sign": differences.sign, "alone": stats.signs(own)})
    frame["p"], frame["p_holm"], frame["p_exact"] = (
        differences.p,
        differences.adjusted,
        differences.exact,
    )
    frame["effect"] = differences.effect
    frame["bca_low"], frame["bca_high"] = _bootstrapped(gains, group, own.n * compared)
    # What cannot be judged yet will be tested too, once it has its seeds.
    awaited = np.where(compared & (own.n > 0), np.nan_to_num(differences.adjusted, nan=1.0), np.nan)
    alpha = stats.next_alpha(awaited)
    settled_by, why = np.full(len(compared), np.nan), [""] * len(compared)
    for number in np.flatnonzero(compared & frame["sign"].isin(UNDECIDED).to_numpy()):
        settling = stats.seeds_to_settle(
            float(own.mean[number]), float(own.deviation[number]), int(own.n[number]), alpha=alpha
        )
        settled_by[number] = np.nan if settling.seeds is None else settling.seeds
        why[number] = settling.reason
    frame["settled_by"], frame["unsettled_why"] = settled_by, why
    return frame


def as_family(intervals: stats.Intervals) -> pd.DataFrame:
    """One row per mean, all of them one family: `p`, `p_holm`, and the `sign` that stays."""
    p = stats.t_test(intervals)
    adjusted = stats.holm(p)
    return pd.DataFrame(
        {"p": p, "p_holm": adjusted, "sign": stats.signs_at(intervals.mean, adjusted)}
    )


def _bootstrapped(
    gains: stats.Floats, group: NDArray[np.int64], n: NDArray[np.int64]
) -> tuple[stats.Floats, stats.Floats]:
    """Bounds of the bootstrap's interval where there are seeds enough for it, else NaN."""
    low, high = np.full(len(n), np.nan), np.full(len(n), np.nan)
    if (n >= stats.LEAST_FOR_BCA).any():
        for number, own in enumerate(stats.split(gains, group, len(n))):
            if n[number] >= stats.LEAST_FOR_BCA and (interval := stats.bca(own)).low is not None:
                low[number], high[number] = interval.low, interval.high
    return low, high
