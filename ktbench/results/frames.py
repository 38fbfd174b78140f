"""Results as tidy pandas frames: a row is a cell, an artifact, an epoch or a measurement."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from ktbench import stats
from ktbench.records import (
    ACCURACY,
    Artifact,
    Cell,
    Checkpoint,
    Ensemble,
    Failure,
    Measurement,
    Metric,
    Result,
    Statistic,
    Teacher,
    Window,
)
from ktbench.results import setting_names, summary
from ktbench.results.attribution import failed_by, known_classes
from ktbench.results.brought_weights import doubt
from ktbench.results.contenders import contenders
from ktbench.results.lock import Lock
from ktbench.results.membership import taught
from ktbench.results.problems import Problem
from ktbench.results.raw import CURVE_COLUMNS, read_curve, read_samples
from ktbench.results.setting_names import settings_text
from ktbench.results.storage import DamagedError, Mark
from ktbench.results.techniques import Techniques
from ktbench.results.unpacking import Unpacked

SECOND = "beside_"
"""Beginning of the names of columns with a task's second figures."""
_ACCURACIES = ("validation_last", "validation_best", "test_last", "test_best")
_COSTS = ("seconds", "teacher_seconds", "shared_seconds", "flops", "teacher_flops")
_STATISTICS = (
    *("load_ms", "first_ms", "p50_ms", "p90_ms", "p99_ms"),
    *("inputs_per_s", "energy_mj", "energy_net_mj", "power_w", "idle_w"),
)


@dataclass(frozen=True, repr=False)
class Results:
    """A results folder in memory. The frames are made when they are first asked for."""

    path: Path
    lock: Lock
    by_key: dict[str, Result]
    """Results of the matrix's cells; a cell that has not run is absent."""
    all_measurements: tuple[Measurement, ...]
    """Measurements of the matrix's graphs on its devices."""
    failures: tuple[Failure, ...]
    """Failures of the last run that belong to no cell."""
    damaged: Mapping[str, Problem] = field(default_factory=dict)
    """Damaged files that are left out, by path, as found when the folder was read."""
    marks: Mapping[str, Mark] = field(default_factory=dict)
    """Marks of curves and samples, by path."""
    unpacked: Unpacked | None = field(default=None, repr=False, compare=False)
    """Holds the temporary folder of a packed one as long as these results live."""
    _found: dict[str, Problem] = field(default_factory=dict, compare=False)
    """Further damage, found when curves and samples were read."""

    @property
    def source(self) -> Path:
        """Source of the results: the folder, or the packed file."""
        return self.path if self.unpacked is None else self.unpacked.file

    @property
    def headline(self) -> str:
        """One line: the matrix, how many cells are in which state, and the measurements."""
        return summary.headline(self)

    @cached_property
    def summary(self) -> pd.DataFrame:
        """A small table for people: one row per student and technique; see `summary.table`."""
        return summary.table(self)

    def __repr__(self) -> str:
        """Return the headline and the small table, or its first and last rows."""
        return summary.text(self)

    @property
    def problems(self) -> list[Problem]:
        """All damage found so far; `read_curves` and `samples` add to it."""
        return list(({**self.damaged} | self._found).values())

    @property
    def metric(self) -> Metric:
        """The metric that all cells are judged by."""
        return self.lock.task.metric

    @cached_property
    def cells(self) -> pd.DataFrame:
        """One row per cell of the matrix, skipped, failed and not yet run ones included.

        `budget`: what this cell's data, training or numeric settings do differently from most
        cells of the matrix, empty for most. `views`: stored augmentations per image, NA where
        every epoch draws its own. `budget_epochs`: what the cell was asked to train, trained or
        not. `distill_start`, `distill_end`, `distill_scale`: the window of the transfer (0, 1 and
        jump where it is the whole training). `teachers_sampled` of `teachers_of`: networks asked
        per step, and all that may be (1 of 1 for a single teacher). Without a teacher these five
        are NaN, empty and NA. `status`: done, failed, skipped, damaged (its record) or pending,
        with its `reason`.
        `validation` and `accuracy`: of the weights that are exported, on the validation
        and the test set. Every figure of the task's metric is a quality here, of which more is
        better: the metric's own, negated where less is better (`Metric.quality`). Costs as in
        `records.Cost`. Where there is no checkpoint, figures are NaN (floats) or NA (integers).
        `failed_by`: technique where the cell's own student or method ended its training,
        circumstance where something else did (`results.attribution`). `accuracy_itt`,
        `validation_itt`: the same by intention to treat: a technique's own failure counts at
        `chance`. `beside_NAME`: a second figure of the test set, as the task gives it, of the
        weights that are exported; no such column where the task has none.
        """
        plan = self.lock.plan
        odd = self.differences
        reasons = {skip.cell.key: skip.reason for skip in plan.skips}
        cells = {cell.key: cell for cell in (*plan.cells, *(skip.cell for skip in plan.skips))}
        damaged = {p.key: p.reason for p in self.damaged.values() if p.key}
        rows = [
            {"budget": settings_text(odd[key])}
            | _cell_row(
                key, cell, self.by_key.get(key), reasons.get(key), damaged.get(key), self.metric
            )
            for key, cell in cells.items()
        ]
        frame = pd.DataFrame(rows, columns=list(_cell_columns())).astype(_cell_columns())
        frame["chance"] = [self.chance(cell) for cell in cells.values()]
        own = frame["failed_by"] == "technique"
        for name in ("accuracy", "validation"):
            frame[f"{name}_itt"] = stats.intention_to_treat(frame[name], own, frame["chance"])
        second = {key: _second_figures(self.by_key.get(key), cell) for key, cell in cells.items()}
        for name in dict.fromkeys(chain.from_iterable(second.values())):
            values = [figures.get(name, math.nan) for figures in second.values()]
            frame[f"{SECOND}{name}"] = values
        return frame

    def chance(self, cell: Cell) -> float:
        """Quality of a guess, of classes 1 / classes; NaN where an older folder does not tell."""
        if self.metric.chance is not None:
            return self.metric.quality(self.metric.chance)
        classes = self.lock.classes or known_classes(cell.data)
        return 1 / classes if classes else float("nan")

    @cached_property
    def contenders(self) -> pd.DataFrame:
        """One row per cell: what it contends in, and as which technique."""
        return contenders(self.cells, self.differences)

    @cached_property
    def compared_techniques(self) -> Techniques:
        """Comparisons of techniques with each other, over students too."""
        return Techniques(self.contenders)

    @property
    def techniques(self) -> pd.DataFrame:
        """`Techniques.standings`: per student, which technique is best and which may be."""
        return self.compared_techniques.standings

    @property
    def technique_pairs(self) -> pd.DataFrame:
        """`Techniques.pairs`: every technique against every other with the same student."""
        return self.compared_techniques.pairs

    @cached_property
    def differences(self) -> dict[str, dict[str, str]]:
        """Settings in which each cell differs from most, by key: data, training and numeric.

        Names and values as a matrix writes them, a part of a part after a dot. How a teacher's
        outputs are reduced counts only for cells that have one.
        """
        return setting_names.differences(self.lock.plan)

    @cached_property
    def artifacts(self) -> pd.DataFrame:
        """One row per exported student of the matrix's exports: `key` (the cell's), `export`."""
        exports = set(self.lock.plan.exports)
        artifacts = (a for r in self.by_key.values() for a in r.artifacts)
        rows = [_artifact_row(a, self.metric) for a in artifacts if a.export in exports]
        return pd.DataFrame(rows, columns=list(_ARTIFACT_TYPES)).astype(_ARTIFACT_TYPES)

    @cached_property
    def measurements(self) -> pd.DataFrame:
        """One row per measurement; `p50_ms` and its kin have `_low` and `_high` beside them."""
        return measurement_frame(self.all_measurements, self.metric)

    @cached_property
    def curves(self) -> pd.DataFrame:
        """One row per epoch of each trained cell: `key` and the columns of the Parquet files."""
        return self.read_curves()

    def read_curves(self, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """`curves`, with some of its columns only: that is quicker for thousands of cells.

        A curve that cannot be believed is left out, and is one of the `problems`.
        """
        tables: dict[str, pa.Table] = {}
        for key, result in self.by_key.items():
            if result.checkpoint is not None:
                path = result.checkpoint.curves
                try:
                    tables[key] = read_curve(
                        self.path / path,
                        result.checkpoint,
                        self.marks.get(path),
                        columns,
                        self.metric,
                    )
                except DamagedError as error:
                    problem = Problem.of(error, self.path, self.path / path, key)
                    self._found.setdefault(path, problem)
        if not tables:
            return pd.DataFrame(columns=["key", *(columns or CURVE_COLUMNS)])
        table = pa.concat_tables(tables.values(), promote_options="default")
        frame: pd.DataFrame = table.to_pandas()
        if "validation_accuracy" in frame:
            frame["validation_accuracy"] = self.metric.sign * frame["validation_accuracy"]
        keys = pd.Categorical(list(tables), categories=list(tables))
        rows = np.array([table.num_rows for table in tables.values()])
        frame.insert(0, "key", pd.Series(keys.repeat(rows)))
        return frame

    def samples(self, measurement: Measurement) -> pa.Table | None:
        """The timed runs of a measurement, `repeat` and `seconds`; None where there are none.

        Those that cannot be believed count as none, and are one of the `problems`.
        """
        path = measurement.samples
        mark = self.marks.get(path)
        if mark is None and not (self.path / path).exists():
            return None
        try:
            return read_samples(self.path / path, measurement, mark)
        except DamagedError as error:
            self._found.setdefault(path, Problem.of(error, self.path, self.path / path))
            return None

    @cached_property
    def deployed(self) -> pd.DataFrame:
        """One row per cell × export × device × threads: accuracy of the cell, latency of its graph.

        A cell's own measurement is taken where there is one, else the first valid one of the same
        graph. Measurements that cannot be compared (`comparability`) keep rows of their own.
        """
        artifacts = self.artifacts.rename(
            columns={"test_accuracy": "artifact_accuracy", "runtime": "checked_in"}
        )
        measured = self.measurements.drop(columns=["format", "precision", "batch_size"])
        joined = artifacts.merge(
            measured.rename(columns={"cell_key": "measured_key"}), on=["graph_key", "export"]
        )
        joined["own"] = joined["key"] == joined["measured_key"]
        joined = joined.sort_values(
            ["own", "valid", "started"], ascending=[False, False, True], kind="stable"
        )
        joined = joined.drop_duplicates(["key", "export", "comparability"])
        columns = ["key", "student", "method", "teacher", "seed", "budget"]
        joined = self.cells[columns].merge(joined, on="key")
        return joined.sort_values(["key", "export", "device", "threads"], ignore_index=True)

    @cached_property
    def teachers(self) -> pd.DataFrame:
        """One row per teacher of the matrix; figures are NaN or NA where it is not trained yet.

        `brought` is the user's file that its weights came from or began from, if any. Costs of the
        former are unknown, and so NaN or NA; those of the latter leave the file's training out.
        Teachers of one network with different checkpoints share a `key` and have their own figures.
        `preprocess` is what brought weights were trained on, `doubt` why they are in doubt.
        """
        checkpoints: dict[tuple[str, ...], Checkpoint] = {}
        for cell in self.lock.plan.cells:
            result = self.by_key.get(cell.key)
            if result is None:
                continue
            checkpoints |= {teacher.weights_key: c for teacher, c in taught(result)}
        rows = []
        for teacher in self.lock.plan.teachers:
            checkpoint = checkpoints.get(teacher.weights_key)
            given = teacher.cell.from_file
            row: dict[str, Any] = {
                "name": teacher.name,
                "key": teacher.cell.key,
                "student": teacher.cell.student.label,
                "brought": teacher.checkpoint or (given.file if given else ""),
                "preprocess": teacher.preprocess.words if teacher.preprocess else "",
                "doubt": self.doubt(teacher, checkpoint),
            }
            row |= _checkpoint_row(checkpoint, teacher.cell, self.metric)
            row |= dict.fromkeys(_COSTS) if teacher.checkpoint else {}
            rows.append(row)
        words = ("name", "key", "student", "brought")
        types = dict.fromkeys(words, object) | _CHECKPOINT_TYPES
        types |= {"preprocess": object, "doubt": object}
        return pd.DataFrame(rows, columns=list(types)).astype(types)

    def doubt(self, teacher: Teacher, checkpoint: Checkpoint | None) -> str:
        """Say why a teacher's own weights are in doubt; empty where they are not."""
        return doubt(teacher, checkpoint, self.metric, self.chance(teacher.cell))


# ---------------------------------------------------------------- rows


_CHECKPOINT_TYPES: dict[str, Any] = {
    "validation": "float64",
    "accuracy": "float64",
    "validation_last": "float64",
    "validation_best": "float64",
    "best_epoch": "Int64",
    "test_last": "float64",
    "test_best": "float64",
    **{name: "Int64" if name.endswith("flops") else "float64" for name in _COSTS},
    "parameters": "Int64",
    "epochs": "Int64",
    "digest": object,
}


def _checkpoint_row(checkpoint: Checkpoint | None, cell: Cell, metric: Metric) -> dict[str, Any]:
    if checkpoint is None:
        return {}
    cost, kept = checkpoint.cost, cell.train.keep
    qualities = {n: metric.quality(getattr(checkpoint.accuracy, n)) for n in _ACCURACIES}
    return {
        "validation": qualities[f"validation_{kept}"],
        "accuracy": qualities[f"test_{kept}"],
        **qualities,
        "best_epoch": checkpoint.accuracy.best_epoch,
        **{name: getattr(cost, name) for name in _COSTS},
        "parameters": checkpoint.parameters,
        "epochs": checkpoint.epochs,
        "digest": checkpoint.digest,
    }


def _second_figures(result: Result | None, cell: Cell) -> dict[str, float]:
    """Return the second figures of the weights that are exported, by name."""
    if result is None or result.checkpoint is None:
        return {}
    accuracy = result.checkpoint.accuracy
    return accuracy.beside_best if cell.train.keep == "best" else accuracy.beside_last


def _cell_columns() -> dict[str, Any]:
    names = ("key", "student", "method", "teacher")
    return {
        **dict.fromkeys(names, object),
        "seed": "int64",
        "budget": object,
        "views": "Int64",
        "budget_epochs": "int64",
        "distill_start": "float64",
        "distill_end": "float64",
        "distill_scale": object,
        "teachers_sampled": "Int64",
        "teachers_of": "Int64",
        "status": object,
        "reason": object,
        "failed_by": object,
        **_CHECKPOINT_TYPES,
        "artifacts": "int64",
    }


def _cell_row(
    key: str,
    cell: Cell,
    result: Result | None,
    skip: str | None,
    damage: str | None,
    metric: Metric,
) -> dict[str, Any]:
    row = {
        "key": key,
        "student": cell.student.label,
        "method": cell.method.label,
        "teacher": cell.teacher.name if cell.teacher else "",
        "seed": cell.seed,
        "views": cell.train.views,
        "budget_epochs": cell.train.epochs,
        **_teaching_row(cell),
        "status": "pending" if skip is None else "skipped",
        "reason": skip or "",
        "failed_by": failed_by(result),
        "artifacts": 0,
    }
    if damage is not None:
        row |= {"status": "damaged", "reason": f"its record {damage}"}
    if result is None:
        return row
    parts = [f"{f.what}: {f.reason}" if f.what else f.reason for f in result.failures]
    row |= {
        "status": result.status,
        "reason": result.reason or "; ".join(parts),
        "artifacts": len(result.artifacts),
    }
    return row | _checkpoint_row(result.checkpoint, cell, metric)


def _teaching_row(cell: Cell) -> dict[str, Any]:
    """Columns of the transfer's window and of how many teachers are used per step."""
    if cell.teacher is None:
        return {"distill_scale": ""}
    window = cell.distill or Window()
    return {
        "distill_start": window.start,
        "distill_end": window.end,
        "distill_scale": window.scale,
        "teachers_sampled": cell.teacher.sample if isinstance(cell.teacher, Ensemble) else 1,
        "teachers_of": len(cell.teachers),
    }


_ARTIFACT_TYPES: dict[str, Any] = {
    "key": object,
    "export": object,
    "format": object,
    "precision": object,
    "batch": object,
    "opset": "Int64",
    "graph_key": object,
    "path": object,
    "bytes": "int64",
    "agreement": "float64",
    "least_agreement": "float64",
    "max_difference": "float64",
    "validation_accuracy": "float64",
    "test_accuracy": "float64",
    "runtime": object,
    "export_seconds": "float64",
    "remarks": object,
}


def _artifact_row(artifact: Artifact, metric: Metric) -> dict[str, Any]:
    spec = artifact.export
    return {
        "key": artifact.cell_key,
        "export": spec.label,
        "format": spec.format,
        "precision": spec.precision,
        "batch": spec.batch,
        "opset": spec.opset if spec.format == "onnx" else None,
        "graph_key": artifact.graph_key,
        "path": artifact.path,
        "bytes": artifact.bytes,
        "agreement": artifact.agreement,
        "least_agreement": artifact.tolerance.agreement,
        "max_difference": artifact.max_difference,
        "validation_accuracy": metric.quality(artifact.validation_accuracy),
        "test_accuracy": metric.quality(artifact.test_accuracy),
        "runtime": artifact.runtime,
        "export_seconds": artifact.seconds,
        "remarks": "; ".join(artifact.remarks),
    }


_MEASURED = (
    "origin",
    "graph_key",
    "cell_key",
    "threads",
    "runtime",
    "runtime_version",
    "provider",
    "runs",
    "repeats",
    "mean_ms",
    "stdev_ms",
    "peak_memory_bytes",
    "build_ms",
    "power_source",
    "hottest_c",
    "slowdown",
    "started",
    "samples",
    "comparability",
)
_ON_BOARD = {
    "board_accuracy": "test_accuracy",
    "board_agreement": "test_agreement",
    "board_images": "test_inputs",
}
"""Figures measured on the board, named apart from the artifact's accuracy on the host."""


def _measurement_columns() -> list[str]:
    bounds = [f"{name}{end}" for name in _STATISTICS for end in ("", "_low", "_high")]
    first = ["device", "profile", "mode", "scenario", "export", "format", "precision"]
    first.append("batch_size")
    judged = ["integer_layers", "layers", "valid", "reasons", "warnings"]
    return [*first, *_MEASURED, *_ON_BOARD, *bounds, *judged]


def measurement_frame(
    measurements: Sequence[Measurement], metric: Metric = ACCURACY
) -> pd.DataFrame:
    """One row per measurement, as in `Results.measurements`."""
    rows = [_measurement_row(measurement, metric) for measurement in measurements]
    return pd.DataFrame(rows, columns=_measurement_columns())


def _measurement_row(measurement: Measurement, metric: Metric) -> dict[str, Any]:
    row: dict[str, Any] = {name: getattr(measurement, name) for name in _MEASURED}
    row |= {name: getattr(measurement, field) for name, field in _ON_BOARD.items()}
    if measurement.test_accuracy is not None:
        row["board_accuracy"] = metric.quality(measurement.test_accuracy)
    for name in _STATISTICS:
        statistic: Statistic | None = getattr(measurement, name)
        row[name] = statistic.value if statistic else None
        row[f"{name}_low"] = statistic.low if statistic else None
        row[f"{name}_high"] = statistic.high if statistic else None
    return row | {
        "device": measurement.device.name,
        "profile": measurement.device.profile,
        "mode": measurement.device.mode,
        "scenario": measurement.device.scenario,
        "export": measurement.export.label,
        "format": measurement.export.format,
        "precision": measurement.export.precision,
        "batch_size": measurement.batch,
        "integer_layers": measurement.kernels.integer if measurement.kernels else None,
        "layers": measurement.kernels.layers if measurement.kernels else None,
        "valid": measurement.validity.valid,
        "reasons": "; ".join(measurement.validity.reasons),
        "warnings": "; ".join(measurement.validity.warnings),
    }
