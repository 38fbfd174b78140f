"""Section with published accuracies beside measured ones, where a matrix has such pairs."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

import numpy as np
import pandas as pd

from ktbench import stats
from ktbench.records import Cell
from ktbench.report import numbers, scores
from ktbench.report.analysis import GROUP, Analysis
from ktbench.report.document import ROWS_SHOWN, Box, Column, Row, Section, Table, rows_of

_KEYS = ["data", "teacher_network", "student_network", "method_name"]


def published(analysis: Analysis) -> tuple[Section, ...]:
    """Build the section; nothing where no trained cell has a published counterpart."""
    frame = beside(analysis)
    if frame.empty:
        return ()
    lead = (
        "Published accuracy for the same data set, networks and method, next to the accuracy that "
        "this matrix measured (mean over seeds, with Student's t interval). Compare the budgets: "
        "they may differ. A published figure of the best epoch was chosen on the test set."
    )
    columns = [
        Column("student", number=False),
        Column("teacher's network", number=False),
        Column("method", number=False),
        Column("published", hint="top-1 on the test set"),
        Column("with", number=False, hint="settings that differ from the method's defaults"),
        Column("measured"),
        Column("interval"),
        Column("seeds"),
        Column("difference", hint="measured minus published, in points"),
        Column("budget here", number=False),
        Column("source", number=False),
    ]
    rows = [_row(row) for row in rows_of(frame)[:ROWS_SHOWN]]
    caption = (
        "Published: 240 epochs on all 50,000 training images, batch 64, SGD at 0.05 (0.01 for "
        "MobileNetV2 and ShuffleNets), divided by ten after 150, 180 and 210 epochs."
    )
    table = Table("published", caption, columns, rows, frame, total=len(frame))
    return (Section("published", "Published beside measured", lead, [table]),)


def _row(row: Row) -> list[Box]:
    bounds = numbers.known(row["low"]) and numbers.known(row["high"])
    interval = f"[{scores.figure(row['low'])}, {scores.figure(row['high'])}]" if bounds else ""
    return [
        Box(row["student"]),
        Box(row["teacher_network"] or numbers.NOTHING),
        Box(row["label"]),
        Box(scores.figure(row["published"])),
        Box(row["settings"]),
        Box(scores.figure(row["measured"])),
        Box(interval),
        Box(str(row["seeds"])),
        Box(scores.gain(row["measured"] - row["published"])),
        Box(row["budget"]),
        Box(f"{row['source']}, {row['epoch']} epoch"),
    ]


def beside(analysis: Analysis) -> pd.DataFrame:
    """One row per trained group with a published figure; accuracies as shares."""
    cells = analysis.cells
    trained = cells[cells["accuracy"].notna()]
    number = trained.groupby(GROUP, sort=False).ngroup()
    groups = trained[[*GROUP, "key"]].groupby(number).first()
    intervals = stats.intervals(trained["accuracy"].to_numpy(), number.to_numpy(), len(groups))
    groups["measured"], groups["low"], groups["high"] = (
        intervals.mean,
        intervals.low,
        intervals.high,
    )
    groups["seeds"] = intervals.n
    cells_by_key = {cell.key: cell for cell in analysis.results.lock.plan.cells}
    rows = [_asked(cells_by_key[key]) for key in groups["key"]]
    names = pd.DataFrame(rows, columns=[*_KEYS, "budget"], index=groups.index)
    merged = groups.join(names).merge(reference(), on=_KEYS, how="inner", suffixes=("", "_there"))
    columns = ["student", "teacher", "label", *_KEYS, "published", "settings", "measured"]
    return merged[[*columns, "low", "high", "seeds", "budget", "source", "epoch"]]


@cache
def reference() -> pd.DataFrame:
    """The published figures, named as the catalogue names things; accuracies as shares."""
    path = files("ktbench.report") / "reference" / "cifar100_published.csv"
    with path.open(encoding="utf-8") as stream:
        frame = pd.read_csv(stream, comment="#", keep_default_na=False)
    names = dict(zip(("data", "teacher", "student", "method"), _KEYS, strict=True))
    frame["published"] = frame.pop("accuracy").astype(np.float64) / 100
    return frame.rename(columns=names)


def _asked(cell: Cell) -> list[str]:
    """The names that a cell and a published figure must share, and the budget in words.

    A network or a teacher's training with settings of its own, several teachers and a window of the
    transfer were not published, nor starts from other weights: they are given the name of nothing.
    """
    path = "".join(letter for letter in (cell.data.path or "").lower() if letter.isalnum())
    known = sorted({name for name in reference()["data"] if name in path})
    teacher = cell.teachers[0].cell if cell.teacher else None
    plain = len(cell.teachers) < 2 and cell.distill is None
    plain &= not cell.student.settings and not (teacher and teacher.student.settings)
    plain &= teacher is None or teacher.teacher is None
    trained = [cell] if teacher is None else [cell, teacher]
    plain &= all(one.from_file is None and one.pretrained is None for one in trained)
    size = f"{cell.data.train_size:,}" if cell.data.train_size else "all"
    budget = f"{cell.train.epochs} epochs of {size} images, {cell.train.optimiser}"
    budget += f", {numbers.count(cell.train.views, 'view')}" if cell.train.views else ""
    return [
        known[0] if known and plain else "?",
        teacher.student.name if teacher else "",
        cell.student.name,
        cell.method.name,
        budget,
    ]
