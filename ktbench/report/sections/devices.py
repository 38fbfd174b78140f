"""Section on devices: a card each with its validity, every measurement, the noise check."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ktbench.records import Measurement
from ktbench.report import doubt, numbers
from ktbench.report.analysis import Analysis, by_origin
from ktbench.report.document import (
    ROWS_SHOWN,
    Box,
    Card,
    Cards,
    Column,
    Note,
    Part,
    Row,
    Section,
    Table,
    rows_of,
)
from ktbench.report.sections.besides_latency import on_board, scenarios

_REASONS_SHOWN = 6


def devices(analysis: Analysis) -> Section:
    """Build the section."""
    lead = (
        "Latency depends on the graph, not on its weights, so each distinct graph is measured once "
        "per device and thread count, and its cells share the figure. Measured and emulated "
        "figures are kept apart, and figures from different conditions are not pooled."
    )
    plan, measurements = analysis.results.lock.plan, analysis.results.all_measurements
    if not plan.devices:
        return Section("devices", "Devices", lead, [Note("The matrix names no device.", "muted")])
    cards = [
        _card(device.name, [m for m in measurements if m.device.name == device.name])
        for device in plan.devices
    ]
    parts: list[Part] = [Cards(cards)]
    if measurements:
        parts.append(_latency_table(analysis))
        parts += on_board(analysis) + scenarios(analysis)
        parts.append(_noise(analysis))
    return Section("devices", "Devices", lead, parts)


def _card(name: str, measurements: list[Measurement]) -> Card:
    if not measurements:
        return Card(name, [], [Note("Nothing has been measured on this device.", "warn")])
    first = measurements[0]
    runtimes = sorted({f"{m.runtime} {m.runtime_version} ({m.provider})" for m in measurements})
    facts = [
        ("figures", ", ".join(sorted({m.origin for m in measurements}))),
        ("profile", first.device.profile + (f", {first.device.host}" if first.device.host else "")),
        *((_fact_name(k), _fact(k, v)) for k, v in sorted(first.board.items())),
        ("runtimes", "; ".join(runtimes)),
        ("threads", ", ".join(str(t) for t in sorted({m.threads for m in measurements}))),
        ("runs", f"{first.repeats} × {first.runs} ({first.device.mode})"),
    ]
    facts += [(f"{_fact_name(k)} before", _fact(k, v)) for k, v in first.state_before.items()]
    invalid = [m for m in measurements if not m.validity.valid]
    warned = [m for m in measurements if m.validity.valid and m.validity.warnings]
    kind = "bad" if invalid else "warn" if warned else "good"
    total = len(measurements)
    words = f"{total - len(invalid)} of {numbers.count(total, 'measurement')} valid"
    words += f", {len(warned)} with a warning" if warned else ""
    notes = [Note(words + ".", kind)]
    notes += _reasons([r for m in invalid for r in m.validity.reasons], "bad")
    notes += _reasons([w for m in warned for w in m.validity.warnings], "warn")
    return Card(name, facts, notes)


def _reasons(reasons: Sequence[str], kind: str) -> list[Note]:
    """Notes on reasons, the commonest first; those that differ in figures alone are merged."""
    alike: dict[str, list[str]] = {}
    for reason in reasons:
        alike.setdefault(_FIGURE.sub("0", reason), []).append(reason)
    listed = sorted(alike.values(), key=lambda own: -len(own))
    notes = [Note(f"{_ranged(own)} ({len(own)}×)", kind) for own in listed[:_REASONS_SHOWN]]
    if len(listed) > _REASONS_SHOWN:
        notes.append(Note(f"and {len(listed) - _REASONS_SHOWN} more, in tables/latency.csv", kind))
    return notes


_FIGURE = re.compile(r"\d+(?:\.\d+)?")


def _ranged(reasons: Sequence[str]) -> str:
    """`is 13% to 45% of the mean` of reasons that differ in their figures alone."""
    columns = iter(list(zip(*(_FIGURE.findall(reason) for reason in reasons), strict=True)))

    def between(_: re.Match[str]) -> str:
        ordered = sorted(next(columns), key=float)
        low, high = ordered[0], ordered[-1]
        return low if float(low) == float(high) else f"{low}–{high}"

    return _FIGURE.sub(between, reasons[0])


def _fact_name(name: str) -> str:
    return name.removesuffix("_bytes").replace("_", " ")


def _fact(name: str, value: object) -> str:
    """A fact of a board on one line, cut where it is long."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if name.endswith("bytes"):
            return numbers.size(value)
        return f"{value:,}" if isinstance(value, int) else numbers.significant(value)
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
    measured = measured.assign(student=measured["cell_key"].map(owners).fillna(numbers.NOTHING))
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
    rows = [_latency_row(r, origins) for r in rows_of(measured.head(ROWS_SHOWN))]
    caption = (
        "Every measurement; p50 with its interval. “Load” is the time to load the model, “first” "
        "the first inference; the percentiles are of the steady state."
    )
    if any(map(doubt.why, rows_of(measured))):
        caption += f" {doubt.LEGEND}"
    return Table("latency", caption, columns, rows, by_origin(measured), total=len(measured))


def _latency_row(row: Row, origins: list[str]) -> list[Box]:
    boxes = [Box(row["device"]), Box(row["student"]), Box(row["export"]), Box(str(row["threads"]))]
    for origin in origins:
        if row["origin"] != origin:
            boxes += [Box("", "muted")] * 5
            continue
        for name in ("load_ms", "first_ms", "p50_ms", "p90_ms", "p99_ms"):
            low, high = (numbers.significant(row[f"p50_ms_{end}"]) for end in ("low", "high"))
            bounds = f" [{low}, {high}]" if name == "p50_ms" else ""
            boxes.append(doubt.latency_box(row[name], row, bounds))
    if not row["valid"]:
        return [*boxes, Box(f"invalid: {row['reasons']}", "bad")]
    if row["warnings"]:
        return [*boxes, Box(f"warning: {row['warnings']}", "warn")]
    return [*boxes, Box("valid", "good")]


def _noise(analysis: Analysis) -> Part:
    """Table of latency differences between files of one graph, which can only be noise."""
    frame = analysis.noise
    if frame.empty:
        return Note(
            "No noise check: each graph was measured once. To measure every cell's own file, set "
            "`noise_check: true` on a device.",
            "muted",
        )
    shown = frame.sort_values("spread", ascending=False, kind="stable")
    rows = [
        [
            Box(r["device"]),
            Box(r["export"]),
            Box(str(r["threads"])),
            Box(str(r["n"])),
            Box(f"{numbers.milliseconds(r['least'])} to {numbers.milliseconds(r['most'])}"),
            Box(numbers.percent(r["spread"]), "warn" if r["spread"] > 0.1 else ""),
        ]
        for r in rows_of(shown)[:ROWS_SHOWN]
    ]
    columns = [
        Column("device", number=False),
        Column("export", number=False),
        Column("threads"),
        Column("files"),
        Column("p50, ms"),
        Column("spread"),
    ]
    median = numbers.percent(frame["spread"].median())
    caption = (
        "Noise check: files that differ only in their weights should take the same time. Spread "
        f"is slowest over fastest minus one; its median is {median}."
    )
    return Table("noise", caption, columns, rows, shown, total=len(shown))
