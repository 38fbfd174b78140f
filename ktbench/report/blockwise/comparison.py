"""Finished blockwise students beside the teacher finished likewise and beside their controls."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import numpy as np
import pandas as pd

from ktbench import catalogue, stats
from ktbench.records import Assembly, Cell, Result
from ktbench.report import numbers, scores
from ktbench.report.analysis import Analysis
from ktbench.report.document import ROWS_SHOWN, Box, Column, Note, Part, Row, Table, rows_of

UNFINISHED = "the teacher before the finish"
CONTROL = "the same network from random weights"
_SAID = 6
"""Most students and finishes that a sentence is written about."""
_ASK = (
    "Nothing here says what the blocks are worth: that takes a control, the same network from "
    "random weights, trained for as long as blocks and finish together (a student with "
    "`start: random`)."
)


def compared(analysis: Analysis) -> pd.DataFrame:
    """Compare each finish of each student by seed: one row per student, finish and other side.

    Differences are in accuracy on the test images, with Student's t interval; signs are Holm's over
    all rows. `passes` are epochs over the training images, `flops` the whole training's with the
    teacher's passes, blocks included; the teacher's own training is in neither.
    """
    cells = _sides(analysis)
    students = cells[cells["side"] == "student"]
    rows, values, groups = list[Row](), list[float](), list[int]()
    for (student, label), own in students.groupby(["student", "label"], sort=False):
        for words, other in _others(cells, own):
            both = own.merge(other, on="seed", suffixes=("", "_other")).dropna(
                subset=["accuracy", "accuracy_other"]
            )
            if both.empty:
                continue
            values += (both["accuracy"] - both["accuracy_other"]).tolist()
            groups += [len(rows)] * len(both)
            names = ["accuracy", "passes", "flops"]
            means = both[[*names, *(f"{name}_other" for name in names)]].mean()
            rows.append({"student": student, "label": label, "against": words, **means})
    if not rows:
        return pd.DataFrame()
    judged = stats.differences(values, groups, len(rows))
    interval = judged.interval
    return pd.DataFrame(rows).assign(
        n=interval.n,
        difference=interval.mean,
        low=interval.low,
        high=interval.high,
        p=judged.adjusted,
        sign=judged.sign,
    )


def _sides(analysis: Analysis) -> pd.DataFrame:
    """One row per cell that is a blockwise student, its control, or the teacher finished."""
    frame = analysis.cells.set_index("key")
    rows = []
    for key, result in analysis.results.by_key.items():
        side = _side(result)
        if side is None or key not in frame.index or result.checkpoint is None:
            continue
        cell, cost, start = result.cell, result.checkpoint.cost, result.start
        finish = cost.flops + cost.teacher_flops
        rows.append(
            {
                "side": side,
                "same": _identity(cell),
                "of": _teacher_of(cell),
                "student": frame.at[key, "student"],
                "label": frame.at[key, "label"],
                "seed": cell.seed,
                "accuracy": frame.at[key, "accuracy"],
                "unfinished": start.teacher_test if start else np.nan,
                "passes": cell.train.epochs + (_epochs(start) if start else 0),
                "flops": finish + (_flops(start) if start else 0),
            }
        )
    names = ["side", "same", "of", "student", "label", "seed", "accuracy", "passes", "flops"]
    return pd.DataFrame(rows, columns=[*names, "unfinished"])


def _side(result: Result) -> str | None:
    if result.start is not None:
        return "student" if result.start.used else "teacher"
    item = result.cell.student
    return "control" if catalogue.from_blocks(item.name, item.settings) is not None else None


def _identity(cell: Cell) -> str:
    """Return what a student of blocks and its control have in common."""
    item = cell.student
    settings = catalogue.from_blocks(item.name, item.settings) or item.settings
    return item.model_copy(update={"settings": settings}).canonical + cell.data.canonical


def _teacher_of(cell: Cell) -> str:
    return "" if cell.start is None else cell.start.teacher.canonical + cell.data.canonical


def _epochs(start: Assembly) -> int:
    return max((block.epochs for block in start.blocks), default=0)


def _flops(start: Assembly) -> float:
    """Return the operations of the blocks' trainings; NaN in records that do not hold them."""
    if not start.blocks:
        return 0.0
    if start.flops is None or start.teacher_flops is None:
        return float("nan")
    return float(start.flops + start.teacher_flops)


def _others(cells: pd.DataFrame, own: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield what a student's finish is compared with, in words: the finished teacher first."""
    first = own.iloc[0]
    finished = cells[(cells["side"] == "teacher") & (cells["of"] == first["of"])]
    by_label = dict(list(finished.groupby("label", sort=False)))
    for label in sorted(by_label, key=lambda label: label != first["label"]):
        likewise = "finished likewise" if label == first["label"] else f"finished by {label}"
        yield f"the teacher, {likewise}", by_label[label]
    controls = cells[(cells["side"] == "control") & (cells["same"] == first["same"])]
    for label, other in controls.groupby("label", sort=False):
        yield f"{CONTROL}: {label}", other
    before = own.assign(accuracy=own["unfinished"], passes=np.nan, flops=np.nan)
    yield UNFINISHED, before


def comparison(analysis: Analysis) -> list[Part]:
    """Build the sentences and the table; a hint where there is no control."""
    frame = compared(analysis)
    if frame.empty:
        return []
    others = frame[frame["against"] != UNFINISHED]
    parts: list[Part] = [Note(line) for line in _said(others)]
    if not others["against"].str.startswith(CONTROL).any():
        parts.append(Note(_ASK, "muted"))
    return [*parts, _table(frame)]


def _said(others: pd.DataFrame) -> Iterator[str]:
    groups = list(others.groupby(["student", "label"], sort=False))
    for (student, label), own in groups[:_SAID]:
        told = [
            f"{scores.gain(r['difference'])} points "
            f"{scores.gain_interval(r['low'], r['high'])}".rstrip()
            + f" against {r['against']}"
            for r in rows_of(own)
        ]
        least = int(own["n"].min())
        yield f"{student}, finished by {label} (n = {least}): {'; '.join(told)}."
    if len(groups) > _SAID:
        yield f"First {_SAID} of {len(groups)}; all are in the table below."


def _table(frame: pd.DataFrame) -> Table:
    columns = [
        Column("student", number=False),
        Column("finished by", number=False),
        Column("against", number=False),
        Column("n", hint="seeds that both have"),
        Column("accuracy", hint="test images"),
        Column("the other's"),
        Column("difference, points", hint="paired by seed; Student's t interval"),
        Column("epochs", hint="over the training images, blocks and finish together"),
        Column("the other's"),
        Column("FLOPs", hint="blocks and finish, the teacher's passes included"),
        Column("the other's"),
    ]
    rows = [_boxes(row) for row in rows_of(frame)[:ROWS_SHOWN]]
    caption = (
        "What the blocks are worth: each student against its teacher and against its control. The "
        "teacher's own training is in no figure; only a control without transfer does without it."
    )
    return Table("block-controls", caption, columns, rows, frame, total=len(frame))


def _boxes(row: Row) -> list[Box]:
    kinds = {"positive": "gain", "negative": "loss"}
    shown = scores.gain(row["difference"])
    bounds = scores.gain_interval(row["low"], row["high"])
    pairs = product(("passes", "flops"), ("", "_other"))
    costs = [Box(_cost(name, row[name + suffix])) for name, suffix in pairs]
    return [
        Box(row["student"]),
        Box(row["label"]),
        Box(row["against"]),
        Box(str(row["n"])),
        Box(scores.figure(row["accuracy"])),
        Box(scores.figure(row["accuracy_other"])),
        Box(f"{shown} {bounds}".rstrip(), kinds.get(row["sign"], "none")),
        *costs,
    ]


def _cost(name: str, value: object) -> str:
    if name == "passes":
        return f"{value:.3g}" if numbers.known(value) else numbers.NOTHING
    return numbers.scaled(value)
