"""Reads curves and samples: Parquet files that must agree with the record they belong to."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ktbench.records import ACCURACY, Checkpoint, Measurement, Metric, printable
from ktbench.results.storage import DamagedError, Mark, unsuitable_reason
from ktbench.system.files import UnsuitableFileError, read_regular

CURVE_COLUMNS = {
    "epoch": pa.int32(),
    "step": pa.int64(),
    "phase": pa.string(),
    "validation_accuracy": pa.float64(),
    "seconds": pa.float64(),
    "teacher_seconds": pa.float64(),
    "flops": pa.int64(),
    "teacher_flops": pa.int64(),
    "lr": pa.float64(),
}
"""Fixed columns of a curve."""
_MORE = ("loss_", "beside_")
"""Beginnings of the names of further columns: loss terms, and second figures of quality."""
_MOST_BYTES = 32 * 2**20
_MOST_COLUMNS = 200
_MOST_OF_SAMPLES = 2**30
_CHECKED = ("epoch", "validation_accuracy", "flops")
_CUMULATIVE = ("seconds", "teacher_seconds", "flops", "teacher_flops")
_NEAR = 1e-6
"""Relative tolerance between a figure and the one summed again in another order."""


def read_curve(
    path: Path,
    checkpoint: Checkpoint,
    mark: Mark | None,
    columns: Sequence[str] | None = None,
    metric: Metric | None = ACCURACY,
) -> pa.Table:
    """Read a training's curve, all of its columns or some; `metric` is None where unknown.

    Raises DamagedError where it cannot be read or is not the curve of that training.
    """
    file, names = _opened(path, mark, _MOST_BYTES, checkpoint.epochs)
    if len(names) > _MOST_COLUMNS:
        raise DamagedError(path, f"has {len(names)} columns")
    chosen = list(columns or [*CURVE_COLUMNS, *(n for n in names if n.startswith(_MORE))])
    try:
        table = file.read(columns=list({*chosen, *_CHECKED}), use_threads=False)
        table.validate(full=True)
    except Exception as error:  # a damaged file makes the reader fail in any way
        raise DamagedError(path, _first_line(error)) from error
    _check_types(path, table, chosen)
    reason = _contradiction(table, checkpoint, metric)
    if reason:
        raise DamagedError(path, f"is not this training's: {reason}")
    return table.select(chosen)


def _check_types(path: Path, table: pa.Table, columns: Sequence[str]) -> None:
    for name in {*columns, *_CHECKED}:
        if name not in table.schema.names:
            raise DamagedError(path, f"has no column {name}")
        if table.schema.field(name).type != CURVE_COLUMNS.get(name, pa.float64()):
            raise DamagedError(path, f"its column {printable(name)[:60]} is of another type")


def _contradiction(table: pa.Table, checkpoint: Checkpoint, metric: Metric | None) -> str | None:
    """Reason why a curve cannot be that of a training, or None."""
    whole = [name for name in table.schema.names if not name.startswith("loss_")]
    if any(table.column(name).null_count for name in whole):
        return "values are missing"
    epochs, figures = (table.column(n).to_numpy() for n in _CHECKED[:2])
    if len(epochs) and (epochs[0] != 1 or (np.diff(epochs) != 1).any()):
        return "its epochs do not follow each other"
    if metric is not None:
        reasons = [reason for figure in figures if (reason := metric.objection(figure))]
        if reasons:
            return f"its {metric.word} {reasons[0]}"
    for name in _CUMULATIVE:
        if name in table.schema.names:
            costs = table.column(name).to_numpy()
            if not (
                np.isfinite(costs).all() and (costs >= 0).all() and (np.diff(costs) >= 0).all()
            ):
                return f"its {name} are negative or fall"
    accuracies = checkpoint.accuracy
    if len(epochs) and metric is not None:
        recorded = (accuracies.validation_last, accuracies.validation_best)
        if (figures[-1], max(figures, key=metric.quality)) != recorded:
            return f"its validation {metric.words} are not those of the record"
    if len(epochs) and table.column("flops")[-1].as_py() != checkpoint.cost.flops:
        return "its FLOPs are not those of the record"
    return None


def read_samples(path: Path, measurement: Measurement, mark: Mark | None) -> pa.Table:
    """Read a measurement's timed runs: `repeat` and `seconds`.

    Raises DamagedError where they cannot be read or are not those of the measurement.
    """
    file, names = _opened(path, mark, _MOST_OF_SAMPLES, measurement.runs)
    for name in ("repeat", "seconds"):
        if name not in names:
            raise DamagedError(path, f"has no column {name}")
    try:
        table = file.read(columns=["repeat", "seconds"], use_threads=False)
        table.validate(full=True)
        repeat = table["repeat"].to_numpy()
        times = table["seconds"].to_numpy().astype(float) * 1e3
        distinct = len(np.unique(repeat))
    except Exception as error:  # a damaged file makes the reader fail in any way
        raise DamagedError(path, _first_line(error)) from error
    if not (np.isfinite(times).all() and (times >= 0).all()):
        raise DamagedError(path, "a time is negative or not a number")
    middle = float(np.quantile(times, 0.5, method="inverted_cdf"))
    figures = ((times.mean(), measurement.mean_ms), (middle, measurement.p50_ms.value))
    if distinct != measurement.repeats or not all(np.isclose(a, b, rtol=_NEAR) for a, b in figures):
        raise DamagedError(path, "contradicts the measurement's figures")
    return table


def _opened(
    path: Path, mark: Mark | None, most: int, rows: int
) -> tuple[pq.ParquetFile, list[str]]:
    """Open a Parquet file after checking its digest and its number of rows."""
    try:
        # A curve is a few kilobytes: read whole, without the reader's own threads and buffers.
        content = read_regular(path, most, follow=False)
    except FileNotFoundError as error:
        raise DamagedError(path, "is missing") from error
    except UnsuitableFileError as error:
        raise DamagedError(path, unsuitable_reason(error)) from error
    except OSError as error:
        raise DamagedError(path, f"cannot be read: {error.strerror}") from error
    if mark is not None and mark != Mark(len(content), hashlib.sha256(content).hexdigest()[:16]):
        raise DamagedError(path, "is not what was written: another digest")
    try:
        file = pq.ParquetFile(pa.BufferReader(content), pre_buffer=False)
        row_count, names = file.metadata.num_rows, list(file.schema_arrow.names)
    except Exception as error:  # a damaged file makes the reader fail in any way
        raise DamagedError(path, _first_line(error)) from error
    if row_count != rows:
        raise DamagedError(path, f"has {row_count:,} rows, the record says {rows:,}")
    if len(set(names)) != len(names) or any(printable(n) != n or len(n) > 200 for n in names):
        raise DamagedError(path, "its columns are not named as they were")
    return file, names


def _first_line(error: Exception) -> str:
    lines = printable(str(error)).splitlines() or [type(error).__name__]
    return f"no readable Parquet: {lines[0][:200]}"
