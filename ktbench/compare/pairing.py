"""Puts the results of two folders side by side: accuracies, sizes, cells that one side lacks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from ktbench.compare.comparison import Accuracy, Comparison, Group, Limits, Missing, Size
from ktbench.compare.judging import Difference, difference, verdicts
from ktbench.compare.latency import latencies
from ktbench.compare.setting_changes import settings, versions
from ktbench.records import KtbenchError
from ktbench.results import Results, load_results

_GROUP = ["student", "method", "teacher", "budget"]


def compare(before: Path, after: Path, limits: Limits | None = None) -> Comparison:
    """Everything that changed from one results folder to another.

    Raises KtbenchError where a folder cannot be read, or the two have nothing in common.
    """
    limits = limits or Limits()
    sides = _Sides(load_results(before), load_results(after))
    accuracies = _accuracies(sides, limits.accuracy_drop / 100)
    if not accuracies:
        raise KtbenchError(
            f"{before} and {after}: no student with the same method is trained in both: there is "
            f"nothing to compare{_damage_told(sides)}"
        )
    return Comparison(
        before=before,
        after=after,
        limits=limits,
        accuracies=accuracies,
        latencies=latencies(sides.before, sides.after, limits.latency_rise / 100),
        sizes=_sizes(sides),
        settings=settings(sides.before, sides.after),
        versions=versions(sides.before, sides.after),
        only_before=_missing(sides.before, sides.after),
        only_after=_missing(sides.after, sides.before),
        damaged_before=sides.before.problems,
        damaged_after=sides.after.problems,
    )


def _damage_told(sides: _Sides) -> str:
    """Where a comparison fails for want of results: which damaged ones were left out."""
    problems = [*sides.before.problems, *sides.after.problems]
    return f" ({len(problems)} damaged files are left out: `ktbench verify`)" if problems else ""


@dataclass(frozen=True)
class _Sides:
    before: Results
    after: Results

    @cached_property
    def trained(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Cells with an accuracy, of either side."""
        frames = (self.before.cells, self.after.cells)
        return tuple(f[f["accuracy"].notna()] for f in frames)  # type: ignore[return-value]

    @cached_property
    def exported(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Artifacts with the group and seed of their cell, and what export did to accuracy."""
        columns = ["key", *_GROUP, "seed", "accuracy"]
        found = (
            side.cells[columns].merge(side.artifacts, on="key")
            for side in (self.before, self.after)
        )
        return tuple(  # type: ignore[return-value]
            f.assign(change=f["test_accuracy"] - f["accuracy"]) for f in found
        )


# ---------------------------------------------------------------- accuracies


def _accuracies(sides: _Sides, limit: float) -> list[Accuracy]:
    """As trained, then what export did to it: two families of comparisons, each judged as one."""
    trained = _family(*sides.trained, _GROUP, "accuracy", limit)
    exported = _family(*sides.exported, [*_GROUP, "export"], "change", limit)
    return [*trained, *exported]


def _family(
    before: pd.DataFrame, after: pd.DataFrame, by: list[str], column: str, limit: float
) -> list[Accuracy]:
    old, new = (_by_seed(frame, by, column) for frame in (before, after))
    weights = [_by_seed(f, by, "digest") if "digest" in f else {} for f in (before, after)]
    found = {name: difference(old[name], new[name], limit) for name in old if name in new}
    judged = verdicts(list(found.values()), limit)
    rows = []
    for (name, d), verdict in zip(found.items(), judged, strict=True):
        mine, yours = (side.get(name, {}) for side in weights)
        row = _accuracy(name, d, old[name], new[name])
        same = sum(mine[seed] == yours.get(seed) for seed in mine)
        rows.append(replace(row, same_weights=same, verdict=verdict))
    return rows


def _by_seed(
    frame: pd.DataFrame, by: list[str], column: str
) -> dict[tuple[str, ...], dict[int, Any]]:
    found: dict[tuple[str, ...], dict[int, Any]] = {}
    for *name, seed, value in frame[[*by, "seed", column]].itertuples(index=False, name=None):
        found.setdefault(tuple(name), {})[int(seed)] = value
    return found


def _accuracy(
    name: tuple[str, ...], d: Difference, old: dict[int, float], new: dict[int, float]
) -> Accuracy:
    compared = sorted(old.keys() & new.keys()) if d.how == "paired" else None
    means = [
        sum(side[s] for s in (compared or side)) / len(compared or side) for side in (old, new)
    ]
    return Accuracy(
        group=Group(*name[:4]),
        export=name[4] if len(name) > 4 else "",
        before=means[0],
        after=means[1],
        difference=d.mean,
        low=d.low,
        high=d.high,
        how=d.how,
        n_before=d.n_before,
        n_after=d.n_after,
        same_weights=0,
        verdict="cannot be judged",
    )


# ---------------------------------------------------------------- sizes and missing cells


def _sizes(sides: _Sides) -> list[Size]:
    old, new = (_mean_sizes(frame) for frame in sides.exported)
    return [Size(*name, old[name], new[name]) for name in old if name in new]


def _mean_sizes(frame: pd.DataFrame) -> dict[tuple[str, str], float]:
    """By student and export."""
    found: dict[tuple[str, str], list[int]] = {}
    for student, export, size in frame[["student", "export", "bytes"]].itertuples(index=False):
        found.setdefault((student, export), []).append(size)
    return {name: sum(sizes) / len(sizes) for name, sizes in found.items()}


def _missing(mine: Results, other: Results) -> list[Missing]:
    """Trained cells of one side that the other has not trained, seeds with one reason together."""
    columns = [*_GROUP, "seed"]
    trained = mine.cells[mine.cells["accuracy"].notna()]
    theirs = other.cells.set_index(columns)[["status", "reason", "accuracy"]]
    theirs = theirs[~theirs.index.duplicated()]
    found: dict[tuple[Group, str, bool], list[int]] = {}
    for name in trained[columns].itertuples(index=False, name=None):
        if name not in theirs.index:
            reason, failed = "not in the matrix", False
        else:
            row = theirs.loc[name]
            if row["accuracy"] == row["accuracy"]:
                continue
            reason = "not run yet" if row["status"] == "pending" else str(row["reason"])
            failed = row["status"] == "failed"
        found.setdefault((Group(*name[:4]), reason, failed), []).append(int(name[4]))
    return [Missing(g, tuple(sorted(s)), why, bad) for (g, why, bad), s in found.items()]
