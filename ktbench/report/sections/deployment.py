"""Sections on deployment: accuracy against latency and size, and export integrity."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ktbench import stats
from ktbench.report import doubt, gain_words, numbers, scores
from ktbench.report.analysis import GROUP, Analysis, by_origin
from ktbench.report.document import (
    ROWS_SHOWN,
    Box,
    Column,
    Note,
    Part,
    Row,
    Section,
    Table,
    rows_of,
)
from ktbench.report.figures import front_figure
from ktbench.report.figures.scatter import LATENCY, POINTS_SHOWN, SIZE, Axis
from ktbench.report.sections.against_teacher import against_teacher

_PANELS_SHOWN = 4


# ---------------------------------------------------------------- fronts


def accuracy_and_cost(analysis: Analysis) -> Section:
    """Build the section on accuracy against latency, per device and threads, and against size."""
    lead = (
        f"Each point is a student with a method in one export: test {scores.word()} of the "
        "exported file, "
        "mean over seeds. Points on the Pareto front (ringed, numbered, listed below) are those "
        "that no other point beats on both axes."
    )
    parts: list[Part] = []
    valid = analysis.deployed[analysis.deployed["valid"]]
    panels = list(valid.groupby(["device", "origin", "threads"], sort=False))
    for number, (key, rows) in enumerate(panels[:_PANELS_SHOWN]):
        device, origin, threads = (str(part) for part in key)
        where = f" on {device} ({origin}, {threads} thread{'' if threads == '1' else 's'})"
        name = "latency" if len(panels) == 1 else f"latency-{number + 1}"
        parts += _front(analysis, rows, LATENCY, name, where, origin)
    if len(panels) > _PANELS_SHOWN:
        words = f"First {_PANELS_SHOWN} of {len(panels)} devices and thread counts."
        parts.append(Note(f"{words} All are in tables/deployed.csv.", "muted"))
    if not panels:
        parts.append(Note(_nothing_measured(analysis), "muted"))
    if len(analysis.exported):
        parts += _front(analysis, analysis.exported, SIZE, "size", "", "")
    else:
        parts.append(Note("Nothing has been exported.", "muted"))
    parts += against_teacher(analysis)
    return Section("deployment", f"{scores.title()}, latency and size", lead, parts)


def _nothing_measured(analysis: Analysis) -> str:
    if not analysis.results.lock.plan.devices:
        return "The matrix names no device, so no latency has been measured."
    return "No valid measurement yet: see the devices and the failures below."


def _front(
    analysis: Analysis, rows: pd.DataFrame, axis: Axis, name: str, where: str, origin: str
) -> list[Part]:
    points = rows.copy()
    on_front = stats.pareto_front(_as_shown(points[axis.column]), points["accuracy"])
    order = points[on_front].sort_values([axis.column, *GROUP, "export"], kind="stable").index
    points["front"] = 0
    points.loc[order, "front"] = np.arange(1, len(order) + 1)
    exports = list(dict.fromkeys(analysis.exported["export"]))
    what = "median latency" if axis is LATENCY else "size of the exported file"
    figure = front_figure(
        points,
        axis=axis,
        name=name,
        caption=f"Test {scores.word()} against {what}{where}: {_points(len(points))}."
        + (f" {doubt.LEGEND}" if axis is LATENCY and points["doubtful"].any() else ""),
        students=analysis.students,
        exports=exports,
    )
    return [figure, _front_table(points, axis, name, where, origin)]


def _as_shown(cost: pd.Series) -> NDArray[np.float64]:
    """Round to three significant digits, as the tables do.

    Files of one graph differ by a few bytes with their weights: that buys no place on the front.
    """
    values = cost.to_numpy(dtype=float)
    known = values > 0
    scale = 10.0 ** (2 - np.floor(np.log10(np.where(known, values, 1.0))))
    return np.where(known, np.round(values * scale) / scale, values)


def _points(total: int) -> str:
    if total <= POINTS_SHOWN:
        return numbers.count(total, "point")
    return f"the front and the first others of {total:,} points, {POINTS_SHOWN:,} in all"


def _front_table(points: pd.DataFrame, axis: Axis, name: str, where: str, origin: str) -> Table:
    front = points[points["front"] > 0].sort_values("front")
    latency = axis is LATENCY
    columns = [
        Column("no."),
        Column("student", number=False),
        Column("method", number=False),
        Column("export", number=False),
        Column(f"test {scores.word()}"),
        Column("n"),
    ]
    if latency:
        columns += [Column(f"p50, ms ({origin})"), Column(f"p90, ms ({origin})")]
    columns.append(Column("size"))
    rows = []
    for r in rows_of(front)[:ROWS_SHOWN]:
        boxes = [
            Box(str(r["front"])),
            Box(r["student"]),
            Box(r["label"]),
            Box(r["export"]),
            Box(
                scores.figure_interval(r["accuracy"], r["accuracy_low"], r["accuracy_high"]),
            ),
            gain_words.seeds_box(r),
        ]
        if latency:
            boxes += [doubt.latency_box(r[name], r) for name in ("p50_ms", "p90_ms")]
        rows.append([*boxes, _size_box(r)])
    frame = points.drop(columns=["valid", "reasons"], errors="ignore")  # all of them are valid
    if latency:
        frame = by_origin(frame)
    caption = f"The Pareto front of {scores.word()} and {'latency' if latency else 'size'}{where}."
    if latency and front["doubtful"].any():
        caption += f" {doubt.LEGEND}"
    return Table(f"front-{name}", caption, columns, rows, frame, total=len(front))


def _size_box(row: Row) -> Box:
    """A file's size, marked where there is a remark on the file, with the remark on hovering."""
    remarks = str(row.get("remarks") or "")
    return Box(numbers.size(row["bytes"]), "warn" if remarks else "", remarks)


# ---------------------------------------------------------------- integrity


def integrity(analysis: Analysis) -> Section:
    """Build the section on the artifacts' agreement with the trained networks, and on refusals."""
    lead = (
        "Every exported file was run on the whole validation set and compared with torch: the "
        f"share of {analysis.task.noun}s of which both say the same, and the largest difference of "
        f"an output. The {scores.word()} "
        f"change is its test {scores.word()} {_minus()}{scores.in_unit()}. A file beyond its "
        "tolerance is a "
        "failure, not a row."
    )
    frame = analysis.integrity
    parts: list[Part] = []
    if len(frame):
        parts.append(_integrity_table(frame))
        parts += [
            Note(f"{row['student']} as {row['export']}: {row['remarks']}.", "warn")
            for row in rows_of(frame[frame["remarks"] != ""])[:ROWS_SHOWN]
        ]
    else:
        parts.append(Note("Nothing has been exported.", "muted"))
    failures = [
        (analysis.results.by_key[key].cell.label, failure)
        for key in analysis.results.by_key
        for failure in analysis.results.by_key[key].failures
        if failure.stage == "export"
    ]
    if failures:
        rows = [
            [Box(label), Box(f.what), Box(f.reason, "bad")] for label, f in failures[:ROWS_SHOWN]
        ]
        named = ["cell", "export", "reason"]
        full = pd.DataFrame([(label, f.what, f.reason) for label, f in failures], columns=named)
        heads = [Column(name, number=False) for name in named]
        caption = "Exports that failed."
        parts.append(Table("export-failures", caption, heads, rows, full, total=len(failures)))
    elif len(frame):
        parts.append(Note("No export failed.", "good"))
    return Section("integrity", "Export integrity", lead, parts)


def _minus() -> str:
    signed = "" if scores.metric().better == "more" else ", above 0 where it is better"
    return f"minus torch's{signed}"


def _integrity_table(frame: pd.DataFrame) -> Table:
    rows = [
        [
            Box(r["export"]),
            Box(r["student"]),
            Box(str(r["artifacts"])),
            Box(numbers.percent(r["agreement_mean"])),
            Box(numbers.percent(r["agreement_least"])),
            Box(f"≥ {numbers.percent(r['agreement_required'])}", "muted"),
            Box(numbers.small(r["difference_largest"])),
            Box(scores.gain(r["change_mean"])),
            Box(f"{scores.gain(r['change_least'])} to {scores.gain(r['change_most'])}"),
            Box(numbers.size(r["bytes"])),
        ]
        for r in rows_of(frame)[:ROWS_SHOWN]
    ]
    columns = [
        Column("export", number=False),
        Column("student", number=False),
        Column("files"),
        Column("agreement, mean"),
        Column("least"),
        Column("required"),
        Column("largest logit difference"),
        Column(f"{scores.word()} change"),
        Column("range"),
        Column("size"),
    ]
    caption = "Agreement with torch on the validation set, over all methods and seeds."
    return Table("integrity", caption, columns, rows, frame, total=len(frame))
