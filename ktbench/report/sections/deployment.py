"""What a student is on a device: accuracy against latency and size, integrity, the devices."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from ktbench import stats
from ktbench.records import Measurement
from ktbench.report import text
from ktbench.report.analysis import GROUP, Analysis, by_origin
from ktbench.report.figures import front_figure
from ktbench.report.figures.scatter import LATENCY, POINTS_SHOWN, SIZE, Axis
from ktbench.report.parts import (
    ROWS_SHOWN,
    Box,
    Card,
    Cards,
    Column,
    Note,
    Part,
    Section,
    Table,
)

_PANELS_SHOWN = 4
_REASONS_SHOWN = 6
_Row = dict[str, Any]


def _rows(frame: pd.DataFrame) -> list[_Row]:
    found: list[_Row] = frame.to_dict("records")  # type: ignore[assignment]
    return found


# ---------------------------------------------------------------- fronts


def accuracy_and_cost(analysis: Analysis) -> Section:
    """Accuracy against latency per device and threads, and against size."""
    lead = (
        "Each point is a student with a method in one export: test accuracy of the exported file, "
        "mean over seeds. Points on the front (ringed, numbered, listed below) are beaten by no "
        "other on both axes."
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
    return Section("deployment", "Accuracy, latency and size", lead, parts)


def _nothing_measured(analysis: Analysis) -> str:
    if not analysis.results.lock.plan.devices:
        return "The matrix names no device, so no latency has been measured."
    return "No valid measurement yet: see the devices and the failures below."


def _front(
    analysis: Analysis, rows: pd.DataFrame, axis: Axis, name: str, where: str, origin: str
) -> list[Part]:
    found = rows.copy()
    on_front = stats.pareto_front(found[axis.column], found["accuracy"])
    order = found[on_front].sort_values([axis.column, *GROUP, "export"], kind="stable").index
    found["front"] = 0
    found.loc[order, "front"] = np.arange(1, len(order) + 1)
    exports = list(dict.fromkeys(analysis.exported["export"]))
    what = "median latency" if axis is LATENCY else "size of the exported file"
    figure = front_figure(
        found,
        axis=axis,
        name=name,
        caption=f"Test accuracy against {what}{where}: {_points(len(found))}.",
        students=analysis.students,
        exports=exports,
    )
    return [figure, _front_table(found, axis, name, where, origin)]


def _points(total: int) -> str:
    if total <= POINTS_SHOWN:
        return text.count(total, "point")
    return f"the front and the first others of {total:,} points, {POINTS_SHOWN:,} in all"


def _front_table(found: pd.DataFrame, axis: Axis, name: str, where: str, origin: str) -> Table:
    front = found[found["front"] > 0].sort_values("front")
    latency = axis is LATENCY
    columns = [
        Column("no."),
        Column("student", number=False),
        Column("method", number=False),
        Column("export", number=False),
        Column("test accuracy"),
        Column("n"),
    ]
    if latency:
        columns += [Column(f"p50, ms ({origin})"), Column(f"p90, ms ({origin})")]
    columns.append(Column("size"))
    rows = []
    for r in _rows(front)[:ROWS_SHOWN]:
        boxes = [
            Box(str(r["front"])),
            Box(r["student"]),
            Box(r["label"]),
            Box(r["export"]),
            Box(text.percent(r["accuracy"])),
            Box(str(r["n"])),
        ]
        if latency:
            boxes += [Box(text.milliseconds(r["p50_ms"])), Box(text.milliseconds(r["p90_ms"]))]
        rows.append([*boxes, Box(text.size(r["bytes"]))])
    frame = found.drop(columns=["valid", "reasons"], errors="ignore")
    if latency:
        frame = by_origin(frame)
    caption = f"The Pareto front of accuracy and {'latency' if latency else 'size'}{where}."
    return Table(f"front-{name}", caption, columns, rows, frame, total=len(front))


# ---------------------------------------------------------------- integrity


def integrity(analysis: Analysis) -> Section:
    """How near every artifact is to the network that was trained, and which were refused."""
    lead = (
        "Every exported file was run on the whole validation set beside torch: the share of images "
        "with the same class, and the largest difference of a logit. The change is its test "
        "accuracy minus torch's, in points. A file beyond its tolerance is a failure, not a row."
    )
    frame = analysis.integrity
    parts: list[Part] = []
    if len(frame):
        parts.append(_integrity_table(frame))
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


def _integrity_table(frame: pd.DataFrame) -> Table:
    rows = [
        [
            Box(r["export"]),
            Box(r["student"]),
            Box(str(r["artifacts"])),
            Box(text.percent(r["agreement_mean"])),
            Box(text.percent(r["agreement_least"])),
            Box(f"≥ {text.percent(r['agreement_required'])}", "muted"),
            Box(text.small(r["difference_largest"])),
            Box(text.points(r["change_mean"])),
            Box(f"{text.points(r['change_least'])} to {text.points(r['change_most'])}"),
            Box(text.size(r["bytes"])),
        ]
        for r in _rows(frame)[:ROWS_SHOWN]
    ]
    columns = [
        Column("export", number=False),
        Column("student", number=False),
        Column("files"),
        Column("agreement, mean"),
        Column("least"),
        Column("required"),
        Column("largest logit difference"),
        Column("accuracy change"),
        Column("range"),
        Column("size"),
    ]
    caption = "Agreement with torch on the validation set, over all methods and seeds."
    return Table("integrity", caption, columns, rows, frame, total=len(frame))


# ---------------------------------------------------------------- devices


def devices(analysis: Analysis) -> Section:
    """A card per device with its validity, every measurement, and the noise check."""
    lead = (
        "Latency belongs to the graph and not to its weights, so each distinct graph is measured "
        "once per device and thread count, and its cells share the figure. What is measured, "
        "emulated or estimated stands apart, and figures from different conditions are not pooled."
    )
    plan, found = analysis.results.lock.plan, analysis.results.all_measurements
    if not plan.devices:
        return Section("devices", "Devices", lead, [Note("The matrix names no device.", "muted")])
    cards = [
        _card(device.name, [m for m in found if m.device.name == device.name])
        for device in plan.devices
    ]
    parts: list[Part] = [Cards(cards)]
    if found:
        parts.append(_latency_table(analysis))
        parts.append(_noise(analysis))
    return Section("devices", "Devices", lead, parts)


def _card(name: str, found: list[Measurement]) -> Card:
    if not found:
        return Card(name, [], [Note("Nothing has been measured on this device.", "warn")])
    first = found[0]
    runtimes = sorted({f"{m.runtime} {m.runtime_version} ({m.provider})" for m in found})
    facts = [
        ("figures", ", ".join(sorted({m.origin for m in found}))),
        ("profile", first.device.profile + (f", {first.device.host}" if first.device.host else "")),
        *((_fact_name(k), _fact(k, v)) for k, v in sorted(first.board.items())),
        ("runtimes", "; ".join(runtimes)),
        ("threads", ", ".join(str(t) for t in sorted({m.threads for m in found}))),
        ("runs", f"{first.repeats} × {first.runs} ({first.device.mode})"),
    ]
    facts += [(f"{_fact_name(k)} before", _fact(k, v)) for k, v in first.state_before.items()]
    invalid = [m for m in found if not m.validity.valid]
    warned = [m for m in found if m.validity.valid and m.validity.warnings]
    kind = "bad" if invalid else "warn" if warned else "good"
    words = f"{len(found) - len(invalid)} of {text.count(len(found), 'measurement')} valid"
    words += f", {len(warned)} with a warning" if warned else ""
    notes = [Note(words + ".", kind)]
    notes += _reasons([r for m in invalid for r in m.validity.reasons], "bad")
    notes += _reasons([w for m in warned for w in m.validity.warnings], "warn")
    return Card(name, facts, notes)


def _reasons(reasons: list[str], kind: str) -> list[Note]:
    counts = {reason: reasons.count(reason) for reason in dict.fromkeys(reasons)}
    listed = sorted(counts.items(), key=lambda item: -item[1])
    notes = [Note(f"{reason} ({number}×)", kind) for reason, number in listed[:_REASONS_SHOWN]]
    if len(listed) > _REASONS_SHOWN:
        notes.append(Note(f"and {len(listed) - _REASONS_SHOWN} more, in tables/latency.csv", kind))
    return notes


def _fact_name(name: str) -> str:
    return name.removesuffix("_bytes").replace("_", " ")


def _fact(name: str, value: object) -> str:
    """A fact of a board on one line, cut where it is long."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if name.endswith("bytes"):
            return text.size(value)
        return f"{value:,}" if isinstance(value, int) else text.significant(value)
    if isinstance(value, dict):
        shown = ", ".join(f"{k} {_fact(str(k), v)}" for k, v in value.items())
    elif isinstance(value, list):
        shown = ", ".join(_fact("", v) for v in value)
    else:
        shown = str(value)
    return shown if len(shown) <= 120 else shown[:119] + "…"


def _latency_table(analysis: Analysis) -> Table:
    measured = analysis.results.measurements
    owners = analysis.cells.set_index("key")["student"]
    measured = measured.assign(student=measured["cell_key"].map(owners).fillna(text.NOTHING))
    place = {student: number for number, student in enumerate(analysis.students)}
    measured = measured.assign(place=measured["student"].map(place))
    measured = measured.sort_values(["device", "place", "export", "threads"], kind="stable")
    measured = measured.drop(columns="place")
    origins = list(dict.fromkeys(measured["origin"]))
    columns = [
        Column("device", number=False),
        Column("student", number=False),
        Column("export", number=False),
        Column("threads"),
        *(
            Column(f"{title}, ms ({origin})")
            for origin in origins
            for title in ("load", "first", "p50", "p90", "p99")
        ),
        Column("valid", number=False),
    ]
    rows = [_latency_row(r, origins) for r in _rows(measured.head(ROWS_SHOWN))]
    caption = (
        "Every measurement; p50 with the bounds of its interval. Load is reading the file, first "
        "is the first inference, the percentiles are the steady state."
    )
    return Table("latency", caption, columns, rows, by_origin(measured), total=len(measured))


def _latency_row(row: _Row, origins: list[str]) -> list[Box]:
    boxes = [Box(row["device"]), Box(row["student"]), Box(row["export"]), Box(str(row["threads"]))]
    for origin in origins:
        if row["origin"] != origin:
            boxes += [Box("", "muted")] * 5
            continue
        for name in ("load_ms", "first_ms", "p50_ms", "p90_ms", "p99_ms"):
            shown = text.milliseconds(row[name])
            if name == "p50_ms":
                low, high = (
                    text.significant(row["p50_ms_low"]),
                    text.significant(row["p50_ms_high"]),
                )
                shown += f" [{low}, {high}]"
            boxes.append(Box(shown))
    if not row["valid"]:
        return [*boxes, Box(f"invalid: {row['reasons']}", "bad")]
    if row["warnings"]:
        return [*boxes, Box("warning", "warn", row["warnings"])]
    return [*boxes, Box("valid", "good")]


def _noise(analysis: Analysis) -> Part:
    """A transfer method cannot change its graph's latency, so such differences are noise."""
    frame = analysis.noise
    if frame.empty:
        return Note(
            "Noise check: each graph was measured once, so there is nothing to compare "
            "(`noise_check: true` on a device measures every cell's own file).",
            "muted",
        )
    shown = frame.sort_values("spread", ascending=False, kind="stable")
    rows = [
        [
            Box(r["device"]),
            Box(r["export"]),
            Box(str(r["threads"])),
            Box(str(r["n"])),
            Box(f"{text.milliseconds(r['least'])} to {text.milliseconds(r['most'])}"),
            Box(text.percent(r["spread"]), "warn" if r["spread"] > 0.1 else ""),
        ]
        for r in _rows(shown)[:ROWS_SHOWN]
    ]
    columns = [
        Column("device", number=False),
        Column("export", number=False),
        Column("threads"),
        Column("files"),
        Column("p50, ms"),
        Column("spread"),
    ]
    median = text.percent(frame["spread"].median())
    caption = (
        "Noise check: files that differ in their weights alone must take the same time. Spread is "
        f"slowest over fastest minus one; its median is {median}."
    )
    return Table("noise", caption, columns, rows, shown, total=len(shown))
