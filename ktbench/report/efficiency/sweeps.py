"""Frames of distillation windows and teacher pools, compared with full transfer and averages."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ktbench import stats
from ktbench.records import Ensemble, Teacher
from ktbench.report.analysis import Analysis
from ktbench.report.efficiency.frames import KINDS

_SWEPT = ["student", "method", "teacher", "rest", "epochs"]


def over_budgets(frame: pd.DataFrame) -> pd.DataFrame:
    """Means over the budgets for each kind of transfer and seed, as rows with 0 `epochs`.

    Only budgets that all kinds with several budgets share count, and only seeds that have all of
    these, where there are several. No transfer may have longer ones as well.
    """
    by = ["student", "method", "teacher", "window", "rest", "seed"]
    if frame.empty:
        return frame
    budgets = frame.groupby(by[:-1], sort=False)["epochs"].agg(frozenset)
    shared = {
        student: frozenset.intersection(*own)
        for student, own in budgets[budgets.map(len) > 1].groupby("student", sort=False)
    }
    inside = [
        e in shared.get(s, ()) for s, e in zip(frame["student"], frame["epochs"], strict=True)
    ]
    frame = frame[inside]
    if frame.empty:
        return frame
    grouped = frame.groupby(by, sort=False)
    rows = grouped.first().reset_index()
    figures = ["accuracy", *KINDS, "teacher_flops"]
    rows[figures] = grouped[figures].mean().reset_index()[figures]
    counted = rows["student"].map({student: len(own) for student, own in shared.items()}).to_numpy()
    whole = (grouped["accuracy"].count().to_numpy() == counted) & (counted > 1)
    means: pd.DataFrame = rows[whole].assign(epochs=0)
    return means


def windows(frame: pd.DataFrame) -> pd.DataFrame:
    """One row per kind of transfer × budget × window, where there are several windows.

    Rows with 0 `epochs` are means over all budgets, seed by seed.
    `change`: test accuracy minus that of transfer throughout, the same seed, with its interval
    over the `change_n` seeds that have both (NaN where the matrix has no such cells, and for
    themselves); `gain`: minus no transfer of the same budget, likewise. `flops` and `seconds` are
    ratios to transfer throughout, `teacher_share` the teacher's part of the FLOPs. The rows are a
    family for `change` and one for `gain`: `..._p_holm` and `..._sign` are judged among them.
    """
    rows = []
    frame = pd.concat([frame, over_budgets(frame)], ignore_index=True)
    for _, own in frame[frame["teacher"] != ""].groupby(_SWEPT, sort=False):
        if own["window"].nunique() > 1:
            whole = own[own["window"] == ""]
            rows += [_swept(frame, part, whole) for _, part in own.groupby("window", sort=False)]
    return _judged(pd.DataFrame(rows, columns=None if rows else [*_SWEPT, "window"]))


def pools(analysis: Analysis, frame: pd.DataFrame) -> pd.DataFrame:
    """One row per kind of transfer × budget × way to use a pool of teachers.

    `pool` numbers the sets of members; `drawn` counts the teachers that a step reads, of `members`:
    where it is one of one, that teacher is a member of the pool, used alone. `change`: test
    accuracy minus that of the average of the most teachers, otherwise as `windows`.
    """
    uses = {cell.key: cell.teacher for cell in analysis.results.lock.plan.cells if cell.teacher}
    sets = [_members(use) for use in uses.values() if isinstance(use, Ensemble)]
    rows = []
    by = ["student", "method", "window", "rest", "epochs"]
    frame = pd.concat([frame, over_budgets(frame)], ignore_index=True) if sets else frame
    for number, members in enumerate(dict.fromkeys(sets)):
        inside = {key for key, use in uses.items() if _belongs(use, members)}
        for _, own in frame[frame["key"].isin(inside)].groupby(by, sort=False):
            drawn = own["key"].map({key: _drawn(uses[key]) for key in inside})
            if not any(isinstance(uses[key], Ensemble) for key in own["key"]):
                continue
            most = own[drawn == drawn.max()]
            for _, part in own.groupby("teacher", sort=False):
                use = uses[part["key"].iloc[0]]
                rows.append(
                    {"pool": number + 1, "drawn": _drawn(use), "members": len(_members(use))}
                    | _swept(frame, part, most)
                )
    return _judged(
        pd.DataFrame(rows, columns=None if rows else ["pool", "drawn", "members", *_SWEPT])
    )


def _judged(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with the signs of its differences, each column of them a family of its own."""
    for name in ("change", "gain") if len(frame) else ():
        adjusted = stats.holm(frame[f"{name}_p"])
        frame[f"{name}_p_holm"] = adjusted
        frame[f"{name}_sign"] = stats.signs_at(frame[name], adjusted)
    return frame


def _members(use: Teacher | Ensemble) -> frozenset[tuple[str, ...]]:
    return frozenset(t.weights_key for t in (use.of if isinstance(use, Ensemble) else (use,)))


def _belongs(use: Teacher | Ensemble, members: frozenset[tuple[str, ...]]) -> bool:
    own = _members(use)
    return own == members if isinstance(use, Ensemble) else own <= members


def _drawn(use: Teacher | Ensemble) -> int:
    return use.sample if isinstance(use, Ensemble) else 1


def _swept(frame: pd.DataFrame, own: pd.DataFrame, reference: pd.DataFrame) -> dict[str, object]:
    """The figures of one way to use a teacher, beside the reference and no transfer."""
    first = own.iloc[0]
    base = frame[
        frame["is_baseline"]
        & (frame["student"] == first["student"])
        & (frame["rest"] == first["alike"])
        & (frame["epochs"] == first["epochs"])
    ]
    row: dict[str, object] = {name: first[name] for name in (*_SWEPT, "window")}
    row["accuracy"], row["n"] = float(own["accuracy"].mean()), int(own["accuracy"].notna().sum())
    row["planned"] = len(own)
    row |= _paired(own, reference.iloc[:0] if own.equals(reference) else reference, "change")
    row |= _paired(own, base, "gain")
    for kind in KINDS:
        row[kind] = float(own[kind].mean() / reference[kind].mean()) if len(reference) else np.nan
        row[f"training_{kind}"] = float(first[f"training_{kind}"])
    teacher, both = own["teacher_flops"].sum(), own["flops"].sum()
    row["teacher_share"] = float(teacher / both) if both else np.nan
    return row


def _paired(own: pd.DataFrame, other: pd.DataFrame, name: str) -> dict[str, object]:
    accuracies, others = (
        {int(seed): float(value) for seed, value in zip(s["seed"], s["accuracy"], strict=True)}
        for s in (side[side["accuracy"].notna()] for side in (own, other))
    )
    gains = np.array(
        [accuracies[seed] - others[seed] for seed in sorted(accuracies.keys() & others.keys())]
    )
    interval = stats.intervals(gains, np.zeros(len(gains), dtype=int), 1)
    return {
        name: float(interval.mean[0]),
        f"{name}_low": float(interval.low[0]),
        f"{name}_high": float(interval.high[0]),
        f"{name}_n": len(gains),
        f"{name}_p": float(stats.t_test(interval)[0]),
    }
