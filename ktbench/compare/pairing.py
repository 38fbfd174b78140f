"""Puts the results of two folders side by side: accuracies, sizes, missing cells, settings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from ktbench.compare.comparison import Accuracy, Comparison, Group, Limits, Missing, Setting, Size
from ktbench.compare.judging import Difference, Outcomes, difference, verdicts
from ktbench.compare.latency import latencies
from ktbench.records import KtbenchError, Metric, Plan, Teacher, canonical_json
from ktbench.results import Results, load_results

_GROUP = ["student", "method", "teacher", "budget"]
_ABSENT = "–"


def compare(before: Path, after: Path, limits: Limits | None = None) -> Comparison:
    """Compare two results folders, or packed ones.

    Raises KtbenchError where a folder cannot be read, or the two have nothing in common.
    """
    limits = limits or Limits()
    sides = _Sides(load_results(before), load_results(after))
    metric = sides.metric
    accuracies = _accuracies(sides, limits.accuracy_drop / metric.scale)
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
        settings=_settings(sides.before, sides.after),
        versions=_versions(sides.before, sides.after),
        only_before=_missing(sides.before, sides.after),
        only_after=_missing(sides.after, sides.before),
        metric=metric,
        damaged_before=sides.before.problems,
        damaged_after=sides.after.problems,
    )


def _damage_told(sides: _Sides) -> str:
    """Hint that damaged results were left out, for the error that nothing can be compared."""
    problems = [*sides.before.problems, *sides.after.problems]
    return f" ({len(problems)} damaged files are left out: `ktbench verify`)" if problems else ""


@dataclass(frozen=True)
class _Sides:
    before: Results
    after: Results

    @property
    def metric(self) -> Metric:
        """The metric of both; raises KtbenchError where they are judged by two."""
        one, other = self.before.metric, self.after.metric
        if one.model_copy(update={"chance": other.chance}) != other:
            raise KtbenchError(
                f"A is judged by {one.name}, B by {other.name}: figures of two metrics cannot be "
                "compared"
            )
        return one

    @cached_property
    def trained(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Cells with an accuracy to count, for each side: failed ones stand at chance level."""
        frames = (self.before.cells, self.after.cells)
        return tuple(f[f["accuracy_itt"].notna()] for f in frames)  # type: ignore[return-value]

    @cached_property
    def exported(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Artifacts with the group and seed of their cell, and the change of accuracy by export."""
        columns = ["key", *_GROUP, "seed", "accuracy", "chance"]
        frames = (
            side.cells[columns].merge(side.artifacts, on="key")
            for side in (self.before, self.after)
        )
        return tuple(  # type: ignore[return-value]
            f.assign(change=f["test_accuracy"] - f["accuracy"]) for f in frames
        )


# ---------------------------------------------------------------- accuracies


def _accuracies(sides: _Sides, limit: float) -> list[Accuracy]:
    """Compare accuracies as trained, then the change by export; each is a family of its own."""
    trained = _family(*sides.trained, _GROUP, "accuracy_itt", limit)
    figure = sides.metric.quality
    trained = [replace(r, before=figure(r.before), after=figure(r.after)) for r in trained]
    exported = _family(*sides.exported, [*_GROUP, "export"], "change", limit)
    planned = [_planned(side) for side in (sides.before, sides.after)]
    rows = []
    for row in (*trained, *exported):
        seeds = [side.get(row.group, 0) for side in planned]
        rows.append(replace(row, planned_before=seeds[0], planned_after=seeds[1]))
    return rows


def _planned(side: Results) -> Counter[Group]:
    """Number of seeds of each group in the side's matrix."""
    cells = side.cells[side.cells["status"] != "skipped"]
    return Counter(Group(*name) for name in cells[_GROUP].itertuples(index=False, name=None))


def _family(
    before: pd.DataFrame, after: pd.DataFrame, by: list[str], column: str, limit: float
) -> list[Accuracy]:
    old, new = (_outcomes(frame, by, column) for frame in (before, after))
    weights = [_by_seed(f, by, "digest") if "digest" in f else {} for f in (before, after)]
    differences = {name: difference(old[name], new[name], limit) for name in old if name in new}
    judged = verdicts(list(differences.values()), limit)
    rows = []
    for (name, d), verdict in zip(differences.items(), judged, strict=True):
        weights_before, weights_after = (side.get(name, {}) for side in weights)
        row = _accuracy(name, d, old[name], new[name])
        same = sum(
            isinstance(weights_before[seed], str)
            and weights_before[seed] == weights_after.get(seed)
            for seed in weights_before
        )
        rows.append(replace(row, same_weights=same, verdict=verdict))
    return rows


def _outcomes(frame: pd.DataFrame, by: list[str], column: str) -> dict[tuple[str, ...], Outcomes]:
    """Values by seed, with the seeds that failed by themselves."""
    values, chances = (_by_seed(frame, by, name) for name in (column, "chance"))
    causes = _by_seed(frame, by, "failed_by") if "failed_by" in frame else {}
    return {
        name: Outcomes(
            own,
            frozenset(s for s, cause in causes.get(name, {}).items() if cause == "technique"),
            next(iter(chances[name].values())),
        )
        for name, own in values.items()
    }


def _by_seed(
    frame: pd.DataFrame, by: list[str], column: str
) -> dict[tuple[str, ...], dict[int, Any]]:
    values: dict[tuple[str, ...], dict[int, Any]] = {}
    for *name, seed, value in frame[[*by, "seed", column]].itertuples(index=False, name=None):
        values.setdefault(tuple(name), {})[int(seed)] = value
    return values


def _accuracy(name: tuple[str, ...], d: Difference, old: Outcomes, new: Outcomes) -> Accuracy:
    shared = sorted(old.values.keys() & new.values.keys()) if d.how == "paired" else None
    compared = [shared or list(side.values) for side in (old, new)]
    sides = list(zip((old, new), compared, strict=True))
    means = [sum(side.values[s] for s in seeds) / len(seeds) for side, seeds in sides]
    failed = [len(side.failed.intersection(seeds)) for side, seeds in sides]
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
        failed_before=failed[0],
        failed_after=failed[1],
        arrived=d.arrived,
    )


# ---------------------------------------------------------------- sizes and missing cells


def _sizes(sides: _Sides) -> list[Size]:
    old, new = (_mean_sizes(frame) for frame in sides.exported)
    return [Size(*name, old[name], new[name]) for name in old if name in new]


def _mean_sizes(frame: pd.DataFrame) -> dict[tuple[str, str], float]:
    """Mean file size by student and export."""
    sizes_of: dict[tuple[str, str], list[int]] = {}
    for student, export, size in frame[["student", "export", "bytes"]].itertuples(index=False):
        sizes_of.setdefault((student, export), []).append(size)
    return {name: sum(sizes) / len(sizes) for name, sizes in sizes_of.items()}


def _missing(mine: Results, other: Results) -> list[Missing]:
    """Trained cells of one side that the other has not trained, seeds with one reason together."""
    columns = [*_GROUP, "seed"]
    trained = mine.cells[mine.cells["accuracy"].notna()]
    cells_of_other = other.cells.set_index(columns)[["status", "reason", "accuracy"]]
    cells_of_other = cells_of_other[~cells_of_other.index.duplicated()]
    seeds_of: dict[tuple[Group, str, bool], list[int]] = {}
    for name in trained[columns].itertuples(index=False, name=None):
        if name not in cells_of_other.index:
            reason, failed = "not in the matrix", False
        else:
            row = cells_of_other.loc[name]
            if row["accuracy"] == row["accuracy"]:
                continue
            reason = "not run yet" if row["status"] == "pending" else str(row["reason"])
            failed = row["status"] == "failed"
        seeds_of.setdefault((Group(*name[:4]), reason, failed), []).append(int(name[4]))
    return [Missing(g, tuple(sorted(s)), why, bad) for (g, why, bad), s in seeds_of.items()]


# ---------------------------------------------------------------- settings and versions


def _settings(before: Results, after: Results) -> list[Setting]:
    """Differing settings: the usual cell's data, training, numerics; teachers, exports, devices."""
    return _differing(*(dict(_requested(side.lock.plan)) for side in (before, after)))


def _versions(before: Results, after: Results) -> list[Setting]:
    """Differing packages, machines and data digests, as of each folder's last run."""
    return _differing(*(dict(_environment(side)) for side in (before, after)))


def _differing(old: dict[str, str], new: dict[str, str]) -> list[Setting]:
    return [
        Setting(name, old.get(name, _ABSENT), new.get(name, _ABSENT))
        for name in {**old, **new}
        if old.get(name) != new.get(name)
    ]


def _requested(plan: Plan) -> Iterator[tuple[str, str]]:
    if plan.cells:
        usual = Counter((c.data, c.train, c.numeric) for c in plan.cells).most_common(1)[0][0]
        for part, name in zip(usual, ("data", "train", "numeric"), strict=True):
            yield from _flat(part.model_dump(mode="json"), name)
    windows = Counter(c.distill for c in plan.cells if c.teacher is not None)
    if windows and (window := windows.most_common(1)[0][0]) is not None:
        yield from _flat(window.model_dump(mode="json"), "distill")
    for teacher in plan.teachers:
        yield from _flat(_teacher(teacher), f"teacher {teacher.name}")
    yield "exports", ", ".join(e.label for e in plan.exports)
    for device in plan.devices:
        yield from _flat(device.model_dump(mode="json"), f"device {device.name}")


def _teacher(teacher: Teacher) -> dict[str, Any]:
    cell, parts = teacher.cell, {"data", "train", "numeric", "seed"}
    own = teacher.preprocess
    brought = {
        "checkpoint": teacher.checkpoint,
        "checkpoint_digest": teacher.checkpoint_digest,
        "preprocess": own.words if own is not None else None,
    }
    if cell.from_file is not None:
        brought |= {"start": cell.from_file.label, "start_digest": cell.from_file.digest}
    return {
        "student": cell.student.label,
        **{name: value for name, value in brought.items() if value is not None},
        **cell.model_dump(mode="json", include=parts),
    }


def _environment(side: Results) -> Iterator[tuple[str, str]]:
    p = side.lock.provenance
    for name in ("ktbench", "commit", "python", "processor", "cores", "system"):
        yield name, str(getattr(p, name))
    yield from sorted(p.versions.items())
    yield "data's digest", side.lock.data_digest or _ABSENT


def _flat(value: Any, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _flat(part, f"{name}.{key}")
    else:
        yield name, value if isinstance(value, str) else canonical_json(value)
