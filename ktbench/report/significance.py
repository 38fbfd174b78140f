"""Statistics of each gain: its sign among all, its effect size, the seeds to decide it."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ktbench import stats

UNDECIDED = ("none", "unknown")
"""Signs of comparisons that more seeds may settle."""
_FAILING = "seeds fail: mend the training first"


def judged(
    pairs: stats.Pairs,
    compared: stats.Bools,
    smallest: float = stats.SMALLEST_GAIN,
    race: stats.SeedRule | None = None,
) -> pd.DataFrame:
    """One row per group: its gain by intention to treat, sign, effect, and seeds that decide it.

    compared (G,): the groups that are one family, which leaves baselines out. `gain` with its
    interval counts failed trainings at chance level, `protocol_gain` is that of the pairs in which
    both sides `arrived`, `risk_low` and `risk_high` count failures not seen. `alone` is the sign by
    the group's own p, `sign` the one that stays among the whole family (Holm). No more seeds are
    asked for where an observed gain is within `smallest` of zero. `race` is the state of a
    comparison whose seeds were added one by one (`raced`), and empty for others.
    """
    one = stats.judge_by_intention(pairs, len(compared))
    p = np.where(compared, one.p, np.nan)
    adjusted = stats.holm(p)
    failing = (one.failed + one.baseline_failed) > 0
    gains = stats.split(pairs.treated - pairs.baseline, pairs.group, len(compared))
    frame = pd.DataFrame(
        {
            "gain": one.mean,
            "gain_low": np.where(compared, one.low, np.nan),
            "gain_high": np.where(compared, one.high, np.nan),
            "n": one.n,
            "pairs_failed": one.failed,
            "baseline_failed": one.baseline_failed,
            "arrived": one.arrived.n,
            "protocol_gain": one.arrived.mean,
            "protocol_low": one.arrived.low,
            "protocol_high": one.arrived.high,
            "risk_low": one.risk_low,
            "risk_high": one.risk_high,
            "sign": stats.signs_at(one.mean, adjusted),
            "alone": stats.signs_at(one.mean, one.p),
            "p": p,
            "p_holm": adjusted,
            "p_exact": [
                np.nan if np.isnan(own) else _exact(values)
                for own, values in zip(p, gains, strict=True)
            ],
            "effect": stats.effect_size(one.arrived),
        }
    )
    frame["bca_low"], frame["bca_high"] = _bootstrapped(gains, one.n * compared * ~failing)
    if race is not None:
        return raced(frame, gains, compared, race)
    frame["race"] = ""
    frame["settled_by"], frame["unsettled_why"] = _settling(
        one, adjusted, frame, compared, smallest
    )
    return frame


_LEFT = {
    "open": "has not all the seeds of its race yet",
    "hopeless": "its last seed would hardly decide it",
    "exhausted": "has all its seeds",
}


def raced(
    frame: pd.DataFrame, gains: list[stats.Floats], compared: stats.Bools, rule: stats.SeedRule
) -> pd.DataFrame:
    """Judge by `stats.standing`, which allows for seeds that were added as they were needed.

    Intervals hold at every number of seeds at once. A p of a fixed number of seeds has no meaning
    then, nor has the number that would decide.
    """
    numbers = np.flatnonzero(compared)
    own = [gains[number] for number in numbers]
    groups = np.repeat(np.arange(len(own)), [len(values) for values in own])
    values = np.concatenate(own) if own else np.zeros(0)
    standing = stats.standing(stats.intervals(values, groups, len(own)), rule)
    bounds = np.where(
        np.isfinite([standing.low, standing.high]), [standing.low, standing.high], np.nan
    )
    frame.loc[numbers, "gain_low"], frame.loc[numbers, "gain_high"] = bounds
    frame["race"] = ""
    frame.loc[numbers, "race"] = standing.states
    frame.loc[numbers, "sign"] = standing.sign
    frame["alone"] = frame["sign"]
    frame[["p", "p_holm", "p_exact", "bca_low", "bca_high", "settled_by"]] = np.nan
    frame["unsettled_why"] = frame["race"].map(_LEFT).fillna("")
    return frame


def _exact(gains: stats.Floats) -> float:
    p = stats.sign_flip_test(gains)
    return np.nan if p is None else p


def _settling(
    one: stats.Judgement,
    adjusted: stats.Floats,
    frame: pd.DataFrame,
    compared: stats.Bools,
    smallest: float,
) -> tuple[stats.Floats, list[str]]:
    """Seeds in all that would settle what is undecided, and why where none would."""
    # What cannot be judged yet will be tested too, once it has its seeds.
    awaited = np.where(compared & (one.n > 0), np.nan_to_num(adjusted, nan=1.0), np.nan)
    alpha = stats.next_alpha(awaited)
    settled_by, why = np.full(len(compared), np.nan), [""] * len(compared)
    for number in np.flatnonzero(compared & frame["sign"].isin(UNDECIDED).to_numpy()):
        failing = one.failed[number] + one.baseline_failed[number] > 0
        if failing and one.n[number] >= stats.LEAST_SEEDS:
            why[number] = _FAILING
            continue
        deviation = np.nan if failing else float(one.arrived.deviation[number])
        settling = stats.seeds_to_settle(
            float(one.mean[number]),
            deviation,
            int(one.n[number]),
            alpha=alpha,
            smallest=smallest,
        )
        settled_by[number] = np.nan if settling.seeds is None else settling.seeds
        why[number] = settling.reason
    return settled_by, why


def as_family(intervals: stats.Intervals) -> pd.DataFrame:
    """One row per mean, all of them one family: `p`, `p_holm`, and the `sign` that stays."""
    p = stats.t_test(intervals)
    adjusted = stats.holm(p)
    return pd.DataFrame(
        {"p": p, "p_holm": adjusted, "sign": stats.signs_at(intervals.mean, adjusted)}
    )


def _bootstrapped(
    gains: list[stats.Floats], n: NDArray[np.int64]
) -> tuple[stats.Floats, stats.Floats]:
    """Bounds of the bootstrap's interval where there are seeds enough for it, else NaN."""
    low, high = np.full(len(n), np.nan), np.full(len(n), np.nan)
    for number in np.flatnonzero(n >= stats.LEAST_FOR_BCA):
        if (interval := stats.bca(gains[number])).low is not None:
            low[number], high[number] = interval.low, interval.high
    return low, high
