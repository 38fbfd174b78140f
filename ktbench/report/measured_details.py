"""Measurements of a cell's artifacts, for its details."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ktbench.records import Measurement
from ktbench.report import doubt, numbers
from ktbench.report.analysis import Analysis
from ktbench.report.document import Row, rows_of


def measured_tables(analysis: Analysis, keys: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """Tables by key, one per origin: measured and emulated figures never share one."""
    deployed = analysis.results.deployed
    deployed = deployed[deployed["key"].isin(keys)]
    records = {m.samples: m for m in analysis.results.all_measurements}
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows_of(deployed):
        groups.setdefault((str(row["key"]), str(row["origin"])), []).append(row)
    tables: dict[str, list[dict[str, Any]]] = {}
    for (key, origin), rows in groups.items():
        boards = dict.fromkeys(
            f"{row['device']}: {_how(row)}; {_board(records[row['samples']])}" for row in rows
        )
        table = {
            "title": f"Latency ({origin})",
            "heads": ["export", "device", "p50, ms", "p90, ms", "load, ms", "valid"],
            "rows": [_row(row) for row in rows],
            "notes": list(boards),
        }
        tables.setdefault(key, []).append(table)
    return tables


def _row(row: Row) -> list[str]:
    threads = f", {row['threads']} threads" if row["threads"] != 1 else ""
    bounds = (
        f" [{numbers.milliseconds(row['p50_ms_low'])}, {numbers.milliseconds(row['p50_ms_high'])}]"
    )
    remarks = [str(row[name]) for name in ("reasons", "warnings") if row[name]]
    return [
        str(row["export"]),
        f"{row['device']}{threads}",
        doubt.marked(numbers.milliseconds(row["p50_ms"]) + bounds, row),
        doubt.marked(numbers.milliseconds(row["p90_ms"]), row),
        doubt.marked(numbers.milliseconds(row["load_ms"]), row),
        "; ".join(["yes" if row["valid"] else "no", *remarks]),
    ]


def _how(row: Row) -> str:
    layers = row["layers"]
    known = layers is not None and layers == layers  # no number where a figure is lacking
    integers = f", {row['integer_layers']:.0f} of {layers:.0f} layers as integers" if known else ""
    return (
        f"{row['runtime']} {row['runtime_version']}, {row['provider']}, {row['runs']:,} runs in "
        f"{numbers.count(row['repeats'], 'repeat')}{integers}"
    )


def _board(measurement: Measurement) -> str:
    """Description of the board and its state, as far as it reports them."""
    names = ("model", "processor", "cpu", "machine", "kernel", "os")
    facts = [measurement.board[name] for name in names if name in measurement.board]
    words = [", ".join(map(str, f)) if isinstance(f, list) else str(f) for f in facts]
    for name in ("governor", "power_mode"):
        if name in measurement.state_before:
            words.append(f"{name.replace('_', ' ')} {measurement.state_before[name]}")
    energy = measurement.energy_mj
    words += [f"{numbers.significant(energy.value)} mJ per inference"] if energy else []
    return ", ".join([*words, measurement.started[:16].replace("T", " ") + " UTC"])
