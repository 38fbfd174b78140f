"""The per-epoch history of a training as Parquet."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ktbench.system.files import write_atomically

_TYPES = {
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


def write_curves(rows: list[dict[str, Any]], path: Path) -> None:
    """One row per epoch; costs are cumulative, `loss_<term>` is the epoch's mean or null.

    Seconds of the student's own work, the teacher's apart; FLOPs likewise.
    """
    losses = sorted({name for row in rows for name in row if name.startswith("loss_")})
    schema = pa.schema([*_TYPES.items(), *((name, pa.float64()) for name in losses)])
    table = pa.Table.from_pylist(
        [{name: row.get(name) for name in schema.names} for row in rows], schema=schema
    )
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    write_atomically(path, buffer.getvalue())
