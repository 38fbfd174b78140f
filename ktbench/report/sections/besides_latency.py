"""Tables of what devices measured besides latency: accuracy, energy, throughput, sustained load."""

from __future__ import annotations

import pandas as pd

from ktbench.report import doubt, numbers, scores
from ktbench.report.analysis import Analysis, by_origin
from ktbench.report.document import ROWS_SHOWN, Box, Column, Part, Row, Table, rows_of

_ANSWERS = ("board_accuracy", "board_difference", "board_agreement")
_ENERGY = {
    "energy_mj": "energy, mJ",
    "energy_net_mj": "net of idle, mJ",
    "power_w": "power, W",
    "idle_w": "idle, W",
}
_OFFLINE = {"inputs_per_s": "inputs per second", "p50_ms": "p50 of a batch, ms"}
_SUSTAINED = {"p50_ms": "p50, ms", "p90_ms": "p90, ms", "slowdown": "last tenth over first"}


def on_board(analysis: Analysis) -> list[Part]:
    """A row per artifact that ran the test set on a board; nothing where none did."""
    answers = _answers(analysis)
    if answers.empty:
        return []
    origins = list(dict.fromkeys(answers["origin"]))
    heads = ["device", "student", "method", "export"]
    columns = [Column(head, number=False) for head in heads]
    columns += [Column(f"{analysis.task.noun}s"), Column(f"{scores.word()} here")]
    there = (f"{scores.word()} there", f"difference, {scores.unit()}", "agreement with torch")
    columns += [Column(f"{title} ({origin})") for origin in origins for title in there]
    columns.append(Column("valid", number=False))
    rows = [_answer_row(r, heads, origins) for r in rows_of(answers.head(ROWS_SHOWN))]
    caption = (
        f"The test set on the board: the {scores.word()} of the same file there and in this "
        "machine's "
        f"runtime, and the share of {analysis.task.noun}s of which board and torch say the same."
    )
    return [Table("on-board", caption, columns, rows, by_origin(answers), total=len(answers))]


def _answers(analysis: Analysis) -> pd.DataFrame:
    """One row per artifact, device and provider: thread counts share their answers."""
    measured = analysis.results.measurements
    answers = measured[measured["board_accuracy"].notna()]
    cells = analysis.cells.rename(columns={"key": "cell_key"})
    here = analysis.results.artifacts.rename(
        columns={"key": "cell_key", "test_accuracy": "accuracy_here"}
    )
    answers = answers.merge(cells[["cell_key", "student", "method"]], on="cell_key", how="left")
    keys = ["cell_key", "export"]
    answers = answers.merge(here[[*keys, "accuracy_here"]], on=keys, how="left")
    answers["board_difference"] = answers["board_accuracy"] - answers["accuracy_here"]
    columns = ["device", "student", "method", "export", "provider", "origin", "cell_key"]
    columns += ["board_images", "accuracy_here", *_ANSWERS, "valid", "reasons", "warnings"]
    return answers[columns].drop_duplicates(["device", "provider", *keys])


def _answer_row(row: Row, heads: list[str], origins: list[str]) -> list[Box]:
    boxes = [Box(str(row[head])) for head in heads]
    boxes += [Box(f"{int(row['board_images']):,}"), Box(scores.figure(row["accuracy_here"]))]
    for origin in origins:
        if row["origin"] != origin:
            boxes += [Box("", "muted")] * len(_ANSWERS)
            continue
        boxes += [
            Box(scores.figure(row["board_accuracy"])),
            Box(scores.gain(row["board_difference"])),
            Box(numbers.percent(row["board_agreement"])),
        ]
    return [*boxes, _validity_box(row)]


def _validity_box(row: Row) -> Box:
    """`yes`, or `doubtful` and `no` with the reason."""
    if not row["valid"]:
        return Box(f"no: {row['reasons']}", "bad")
    return Box(f"yes, but {row['warnings']}", "warn") if row["warnings"] else Box("yes", "good")


def scenarios(analysis: Analysis) -> list[Part]:
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
                "Energy of the whole board per inference, with and without its idle power.",
                energy,
                _ENERGY,
                {"power_source": "sensor: rails"},
            ),
            (
                "offline",
                "The offline scenario: throughput of batches, one after the other.",
                offline,
                _OFFLINE,
                {"batch_size": "batch"},
            ),
            (
                "sustained",
                "The sustained scenario: ten minutes without a break. The slowdown is the median "
                "of the last tenth of that time over that of the first tenth.",
                sustained,
                _SUSTAINED,
                {"hottest_c": "hottest, °C"},
            ),
        )
        if len(rows)
    ]


def _table(
    name: str, caption: str, measured: pd.DataFrame, figures: dict[str, str], notes: dict[str, str]
) -> Table:
    """Figures of each origin in columns of their own; `notes` are told as they are."""
    origins = list(dict.fromkeys(measured["origin"]))
    heads = ["device", "student", "export", "threads", "provider"]
    columns = [Column(head, number=head == "threads") for head in heads]
    columns += [Column(f"{t} ({origin})") for origin in origins for t in figures.values()]
    columns += [Column(title, number=False) for title in notes.values()]
    columns.append(Column("valid", number=False))
    rows = []
    for r in rows_of(measured.head(ROWS_SHOWN)):
        boxes = [Box(str(r[head])) for head in heads]
        for origin in origins:
            same = r["origin"] == origin
            boxes += [
                Box(doubt.marked(numbers.significant(r[f]), r) if same else "") for f in figures
            ]
        boxes += [Box(_shown(r[n])) for n in notes]
        boxes.append(_validity_box(r))
        rows.append(boxes)
    return Table(name, caption, columns, rows, by_origin(measured), total=len(measured))


def _shown(value: object) -> str:
    """A number to three digits, a text as it is."""
    return value if isinstance(value, str) else numbers.significant(value)
