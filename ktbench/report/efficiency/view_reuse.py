"""Frames of the accuracy that reused views cost, and of the teacher's passes that they save."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ktbench import stats
from ktbench.report.significance import as_family

_ROW = ["student", "label", "teacher", "views"]
_GAIN = ["gain", "gain_low", "gain_high", "p", "p_holm", "sign"]
_FIGURES = ["n", "fresh", "reused", *_GAIN, "saved"]


def paired(cells: pd.DataFrame, curves: pd.DataFrame) -> pd.DataFrame:
    """One row per trained cell with views whose twin with fresh augmentations was trained too.

    `cells`: as `Analysis.cells`, with `likewise`, the budget apart from the views; `curves` with
    `key`, `epoch` and `teacher_flops`. Adds `gain`, the difference in test accuracy, reused minus
    fresh; `planned`, the seeds of its group; and `saved`, the share of the teacher's passes that
    views make unnecessary: NaN where no teacher is run.
    """
    cells = cells.assign(planned=cells.groupby(_ROW, dropna=False)["seed"].transform("size"))
    trained = cells[cells["accuracy"].notna()]
    same = ["student", "plain_method", "teacher", "seed", "likewise"]
    fresh = trained.loc[trained["views"].isna(), [*same, "accuracy"]]
    reused = trained[trained["views"].notna()].astype({"views": "int64"})
    pairs = reused.merge(fresh, on=same, suffixes=("", "_fresh"))
    pairs["gain"] = pairs["accuracy"] - pairs["accuracy_fresh"]
    pairs["saved"] = pairs["key"].map(_saved(pairs, curves)).astype(float)
    return pairs


def by_group(pairs: pd.DataFrame) -> pd.DataFrame:
    """One row per group × number of views that was also trained with fresh augmentations.

    `gain` is the mean over seeds of the paired difference in test accuracy, reused minus fresh,
    with its t interval; `n` the seeds that have both; `saved` the mean of that of `paired`. The
    rows are one family: `p_holm` and `sign` are judged among all of them.
    """
    number = pairs.groupby(_ROW, sort=False).ngroup()
    frame = pairs.groupby(number)[[*_ROW, "is_baseline", "planned"]].first()
    figures = pairs.groupby(number)[["accuracy_fresh", "accuracy", "saved"]].mean()
    frame["fresh"], frame["reused"] = figures["accuracy_fresh"], figures["accuracy"]
    frame["saved"] = figures["saved"]
    intervals = stats.intervals(pairs["gain"], number, len(frame))
    return _with(frame, intervals)[[*_ROW, "is_baseline", "planned", *_FIGURES]]


def overall(pairs: pd.DataFrame) -> pd.DataFrame:
    """One row per number of views: the mean over all groups with a teacher, `groups` of them.

    Cells of one seed share initial weights and data order, so they are no independent draws: the
    interval is that of the seeds' means, over the groups that have every seed. The rows are a
    family of their own.
    """
    pairs = pairs[pairs["teacher"] != ""]
    rows, gains = [], []
    for views, own in pairs.groupby("views", sort=True):
        sizes = own.groupby(_ROW)["seed"].transform("size")
        whole = own[sizes == own["seed"].nunique()]
        if whole.empty:
            continue
        by_seed = whole.groupby("seed")[["accuracy_fresh", "accuracy", "gain", "saved"]].mean()
        rows.append(
            {
                "views": views,
                "groups": len(whole[_ROW].drop_duplicates()),
                "fresh": by_seed["accuracy_fresh"].mean(),
                "reused": by_seed["accuracy"].mean(),
                "saved": by_seed["saved"].mean(),
            }
        )
        gains.append(by_seed["gain"].to_numpy(dtype=float))
    columns = ["views", "groups", *_FIGURES]
    if not rows:
        return pd.DataFrame(columns=columns)
    number = np.repeat(np.arange(len(gains)), [len(own) for own in gains])
    return _with(pd.DataFrame(rows), stats.intervals(np.concatenate(gains), number, len(gains)))[
        columns
    ]


def _with(frame: pd.DataFrame, intervals: stats.Intervals) -> pd.DataFrame:
    frame["gain"], frame["gain_low"], frame["gain_high"] = (
        intervals.mean,
        intervals.low,
        intervals.high,
    )
    frame["n"] = intervals.n
    return frame.join(as_family(intervals))


def _saved(pairs: pd.DataFrame, curves: pd.DataFrame) -> pd.Series[float]:
    """Share of the epochs with a teacher whose view had come before, by key.

    1 − min(E, K) / E for a teacher that is run in all E epochs with K views.
    """
    views = pairs.set_index("key")["views"]
    own = curves.loc[curves["key"].isin(views.index), ["key", "epoch", "teacher_flops"]]
    own = own.astype({"key": object})
    run = own.groupby("key")["teacher_flops"].diff().fillna(own["teacher_flops"]) > 0
    own = own[run]
    own["view"] = (own["epoch"] - 1) % own["key"].map(views)
    grouped = own.groupby("key")
    share: pd.Series[float] = 1 - grouped["view"].nunique() / grouped["epoch"].nunique()
    return share
