"""Section with one row per cell of the matrix, which opens the cell's details."""

from __future__ import annotations

from collections.abc import Sequence

from ktbench.report import numbers, scores
from ktbench.report.analysis import Analysis
from ktbench.report.document import Box, Column, Row, Section, Table, rows_of
from ktbench.results.frames import SECOND

_STATUS = {"done": "good", "failed": "bad", "damaged": "bad"}


def cells(analysis: Analysis, keys: Sequence[str]) -> Section:
    """Build the section for the cells named by `keys`, in the matrix's order."""
    frame = analysis.cells[analysis.cells["key"].isin(keys)]
    second = [name for name in map(str, frame.columns) if name.startswith(SECOND)]
    columns = [
        Column("student", number=False),
        Column("method", number=False),
        Column("seed"),
        Column("status", number=False),
        Column(f"test {scores.word()}"),
        Column(f"gain, {scores.unit()}"),
        *(Column(f"test {name.removeprefix(SECOND)}") for name in second),
        Column("validation"),
        Column("parameters"),
        Column("seconds alone"),
        Column("teacher's seconds"),
        Column("exports"),
    ]
    table = Table(
        "cells",
        "Every cell: one student, method and seed.",
        columns,
        [_row(row, second) for row in rows_of(frame)],
        analysis.results.cells,
        total=len(analysis.cells),
        anchored=True,
    )
    lead = (
        "Click a name for the cell's details: curves, settings, exports with their agreement, "
        "measurements and their validity, provenance, and the command that reproduces the cell. "
        "The page's address then leads to that cell."
    )
    return Section("cells", "Cells", lead, [table])


def _row(row: Row, second: Sequence[str]) -> list[Box]:
    parameters = f"{row['parameters']:,}" if numbers.known(row["parameters"]) else numbers.NOTHING
    return [
        Box(row["student"], opens=row["key"]),
        Box(row["label"]),
        Box(str(row["seed"])),
        Box(row["status"], _STATUS.get(row["status"], "muted"), row["reason"]),
        Box(scores.figure(row["accuracy"])),
        Box(numbers.NOTHING, "muted") if row["is_baseline"] else Box(scores.gain(row["gain"])),
        *(Box(numbers.significant(row[name], 4)) for name in second),
        Box(scores.figure(row["validation"])),
        Box(parameters),
        Box(numbers.seconds(row["seconds"])),
        Box(numbers.seconds(row["teacher_seconds"])),
        Box(str(row["artifacts"])),
    ]
