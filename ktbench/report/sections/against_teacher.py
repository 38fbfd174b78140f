"""Students' files beside their teacher's own, where the matrix exports that as well."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from ktbench.records import Cell, Result
from ktbench.report import numbers
from ktbench.report.analysis import Analysis
from ktbench.report.document import ROWS_SHOWN, Box, Column, Note, Part, Row, Table, rows_of
from ktbench.report.doubt import LEGEND, MARK

WHERE = ["device", "origin", "threads"]


def compared_files(analysis: Analysis) -> pd.DataFrame:
    """Compare each student's files with its teacher's in the same export: size, then latency.

    One row per student, export and device (none where nothing was measured). A teacher's file is
    that of a student of the same network, its blocks kept where it is made of blocks. Ratios are of
    means over cells; `doubtful` where a measurement warns.
    """
    results = analysis.results.by_key
    own = {key: name for key, result in results.items() if (name := _network(result))}
    taught = {key: name for key, result in results.items() if (name := _taught_by(result.cell))}
    sizes = analysis.results.artifacts
    if sizes.empty or not own:
        return pd.DataFrame()
    students = analysis.cells.set_index("key")["student"]
    files = sizes[["key", "export", "precision", "bytes"]].assign(
        network=sizes["key"].map(own), teacher=sizes["key"].map(taught)
    )
    files["student"] = files["key"].map(students)
    deployed = analysis.results.deployed
    timed = deployed[deployed["valid"].astype(bool)][
        ["key", "export", *WHERE, "p50_ms", "warnings"]
    ]
    files = files.merge(timed, on=["key", "export"], how="left")
    # Text throughout: of numbers alone pandas would make a column that joins with no other.
    files["threads"] = files["threads"].map(lambda n: "" if pd.isna(n) else f"{n:.0f}")
    files[WHERE] = files[WHERE].astype(object).fillna("")
    files["doubtful"] = files["warnings"].fillna("") != ""
    figures = {"bytes": "mean", "p50_ms": "mean", "doubtful": "any"}
    theirs = files.dropna(subset="network").groupby(["network", "export", *WHERE]).agg(figures)
    made = files[files["network"].isna() & files["teacher"].notna()]
    names = ["student", "teacher", "export", "precision", *WHERE]
    frame = made.groupby(names, sort=False).agg(figures).reset_index()
    theirs = theirs.rename_axis(index={"network": "teacher"}).reset_index()
    both = frame.merge(theirs, on=["teacher", "export", *WHERE], suffixes=("", "_teacher"))
    both["doubtful"] |= both.pop("doubtful_teacher")
    both["size"] = both["bytes"] / both["bytes_teacher"]
    both["time"] = both["p50_ms"] / both["p50_ms_teacher"]
    return both.drop(columns="teacher")


def _network(result: Result) -> str | None:
    """Return the network that a cell's file holds unchanged; None where blocks are replaced."""
    cell, start = result.cell, result.start
    if cell.start is None:
        return cell.student.canonical + cell.data.canonical
    if start is None or start.used:
        return None
    return _named(cell, cell.start.teacher.cell)


def _taught_by(cell: Cell) -> str | None:
    if cell.start is not None:
        return _named(cell, cell.start.teacher.cell)
    return _named(cell, cell.teachers[0].cell) if len(cell.teachers) == 1 else None


def _named(cell: Cell, teacher: Cell) -> str:
    return teacher.student.canonical + cell.data.canonical


def against_teacher(analysis: Analysis) -> list[Part]:
    """Build the table and what has to be said of it; nothing where no teacher was exported."""
    frame = compared_files(analysis)
    if frame.empty:
        return []
    return [*(Note(line, "warn") for line in _worse(frame)), _table(frame)]


def _worse(frame: pd.DataFrame) -> Iterator[str]:
    """Yield a sentence for each int8 file that is larger or slower than its teacher's.

    Fewer weights need not make a smaller file, as int8 has a scale per channel, nor a quicker one,
    as a runtime's kernels are not equally good.
    """
    for row in rows_of(frame[frame["precision"] == "int8"]):
        told = []
        if row["size"] > 1:
            told.append(f"{numbers.factor(row['size'])} times its bytes")
        if row["time"] > 1:
            doubt = " (doubtful)" if row["doubtful"] else ""
            told.append(
                f"{numbers.factor(row['time'])} times its latency on {row['device']}{doubt}"
            )
        if told:
            yield (
                f"{row['student']} as {row['export']} does not improve on its teacher's file: "
                f"{' and '.join(told)}."
            )


def _table(frame: pd.DataFrame) -> Table:
    columns = [
        Column("student", number=False),
        Column("export", number=False),
        Column("size"),
        Column("of the teacher's"),
        Column("device", number=False),
        Column("p50, ms"),
        Column("of the teacher's"),
    ]
    rows = [_boxes(row) for row in rows_of(frame)[:ROWS_SHOWN]]
    caption = "Each student's files beside its teacher's own: means over methods and seeds."
    if frame["doubtful"].any():
        caption += f" {LEGEND}"
    return Table("against-teacher", caption, columns, rows, frame, total=len(frame))


def _boxes(row: Row) -> list[Box]:
    where = f"{row['device']} ({row['origin']}, {row['threads']} thr.)" if row["device"] else ""
    mark, *doubt = (
        (f" {MARK}", "warn", "a measurement warns: see the devices")
        if row["doubtful"]
        else ("", "", "")
    )
    return [
        Box(row["student"]),
        Box(row["export"]),
        Box(numbers.size(row["bytes"])),
        Box(numbers.factor(row["size"]), "bad" if row["size"] > 1 else ""),
        Box(where or numbers.NOTHING),
        Box(numbers.milliseconds(row["p50_ms"]) + mark, *doubt),
        Box(numbers.factor(row["time"]) + mark, "bad" if row["time"] > 1 else doubt[0]),
    ]
