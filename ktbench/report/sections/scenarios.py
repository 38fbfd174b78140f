"""What was measured beside latency: energy, throughput in batches, and ten minutes on end."""

from __future__ import annotations

import pandas as pd

from ktbench.report import numbers
from ktbench.report.analysis import Analysis, by_origin
from ktbench.report.document import ROWS_SHOWN, Box, Column, Part, Table, rows_of

_ENERGY = {
    "energy_mj": "energy, mJ",
    "energy_net_mj": "net of idle, mJ",
    "power_w": "power, W",
    "idle_w": "idle, W",
}
_OFFLINE = {"inputs_per_s": "inputs per second", "p50_ms": "p50 of a batch, ms"}
_SUSTAINED = {"p50_ms": "p50, ms", "p90_ms": "p90, ms", "slowdown": "last tenth over first"}


def beside_latency(analysis: Analysis) -> list[Part]:
    """A table each of energy, of the offline and of the sustained scenario, where measured."""
    measured = analysis.results.measurements
    owners = analysis.cells.set_index("key")["student"]
    measured = measured.assign(student=measured["cell_key"].map(owners).fillna(numbers.NOTHING))
    energy = measured[measured["energy_mj"].notna()]
    offline = measured[measured["scenario"] == "offline"]
    sustained = measured[measured["scenario"] == "sustained"]
    return [
        _table(name, caption, rows, figures, notes)
        for name, caption, rows, figures, notes in (
            (
                "energy",
                "Energy of the whole board per inference, with and without what it takes idle.",
                energy,
                _ENERGY,
                {"power_source": "sensor: rails"},
            ),
            (
                "offline",
                "The offline scenario: batches one after the other, for their throughput.",
                offline,
                _OFFLINE,
                {"batch_size": "batch"},
            ),
            (
                "sustained",
                "The sustained scenario: ten minutes on end; the slowdown is the median of the "
                "last tenth of that time over the first tenth's.",
                sustained,
                _SUSTAINED,
                {"hottest_c": "hottest, °C"},
            ),
        )
        if len(rows)
    ]


def _table(
    name: str, caption: str, found: pd.DataFrame, figures: dict[str, str], notes: dict[str, str]
) -> Table:
    """Figures of each origin in columns of their own; `notes` are told as they are."""
    origins = list(dict.fromkeys(found["origin"]))
    heads = ["device", "student", "export", "threads", "provider"]
    columns = [Column(head, number=head == "threads") for head in heads]
    columns += [Column(f"{t} ({origin})") for origin in origins for t in figures.values()]
    columns += [Column(title, number=False) for title in notes.values()]
    columns.append(Column("valid", number=False))
    rows = []
    for r in rows_of(found.head(ROWS_SHOWN)):
        boxes = [Box(str(r[head])) for head in heads]
        for origin in origins:
            same = r["origin"] == origin
            boxes += [Box(numbers.significant(r[f]) if same else "", "") for f in figures]
        boxes += [Box(_told(r[n])) for n in notes]
        boxes.append(Box("yes", "good") if r["valid"] else Box("no", "bad"))
        rows.append(boxes)
    return Table(name, caption, columns, rows, by_origin(found), total=len(found))


def _told(value: object) -> str:
    """A number to three digits, a text as it is."""
    return value if isinstance(value, str) else numbers.significant(value)
