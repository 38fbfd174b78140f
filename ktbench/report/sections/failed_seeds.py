"""Seeds that failed: how often, what the gain is with and without them, and the rule."""

from __future__ import annotations

import pandas as pd

from ktbench import stats
from ktbench.report import gain_words, numbers, scores
from ktbench.report.analysis import Analysis
from ktbench.report.document import ROWS_SHOWN, Box, Column, Note, Part, Table, rows_of


def failed_seeds(analysis: Analysis) -> list[Part]:
    """Build a note on the rule and a table of every comparison; nothing where no seed failed."""
    frame = analysis.gains
    if not frame["own_failures"].sum():
        return []
    compared = frame[~frame["is_baseline"]]
    return [*_rule(analysis), _table(compared)]


def _rule(analysis: Analysis) -> list[Part]:
    cells = analysis.cells
    own = cells[cells["failed_by"] == "technique"]
    other = int((cells["failed_by"] == "circumstance").sum())
    uncounted = int(own["chance"].isna().sum())
    levels = sorted({scores.figure(c) for c in own["chance"].dropna()})
    words = (
        f"{numbers.count(len(own), 'training')} failed by the technique's own doing (a loss that "
        "is not finite, an exception of its own). A verdict is by intention to treat: such a seed "
        f"counts at chance level, {_chance()}{' or '.join(levels)}, on either side of a gain. "
        if levels
        else ""
    )
    if other:
        words += (
            f"{numbers.count(other, 'other cell')} failed for another reason (its teacher, the "
            "machine, a process that was ended): such a seed is missing, and marked as “n = 4 of "
            "5”. "
        )
    words += (
        "Where seeds failed, the interval adds the squares of three distances: Wilson's bounds of "
        "both sides' shares of failures, and Student's t bounds of the gain where both finished."
    )
    notes: list[Part] = [Note(words)]
    if uncounted:
        notes.append(
            Note(
                f"{numbers.count(uncounted, 'failure')} could not be counted, as this folder does "
                "not tell the number of classes: run `ktbench run` on it again, which trains "
                "nothing anew and writes it down.",
                "warn",
            )
        )
    return notes


def _chance() -> str:
    return "1 / classes = " if scores.metric().chance is None else ""


def _table(compared: pd.DataFrame) -> Table:
    rows = [
        [
            Box(r["student"]),
            Box(r["label"]),
            gain_words.failed_box(r, bounded=True),
            Box(_bounded(r, "gain", "gain_low", "gain_high")),
            Box(_bounded(r, "protocol_gain", "protocol_low", "protocol_high")),
            Box(scores.gain_interval(r["risk_low"], r["risk_high"]) or numbers.NOTHING),
            Box(f"{r['arrived']} of {r['planned']}", "warn" * (r["arrived"] < r["planned"])),
        ]
        for r in rows_of(compared)[:ROWS_SHOWN]
    ]
    columns = [
        Column("student", number=False),
        Column("method", number=False),
        Column("failed", hint="by its own doing, of the seeds tried; Wilson's interval"),
        Column("gain, failures at chance"),
        Column("gain among seeds that finished"),
        Column("with failures not seen", hint="what these seeds cannot exclude"),
        Column("pairs that finished"),
    ]
    few = stats.rare_failures(5)
    caption = (
        f"Failed seeds and gains{scores.in_unit()}. “With failures not seen” also counts the "
        "failures that "
        f"so few seeds cannot exclude: five without one leave up to {100 * float(few):.0f} % open "
        f"(95 %, one-sided), and {stats.seeds_to_exclude(0.2)} are needed to exclude 20 %. A gain "
        "without a failed seed speaks only of trainings that finish."
    )
    names = ["student", "method", "teacher", "planned", "n", "tried", "own_failures"]
    shares = ["failing", "failing_low", "failing_high", "pairs_failed", "baseline_failed"]
    gains = ["gain", "gain_low", "gain_high", "arrived", "protocol_gain", "protocol_low"]
    frame = compared[[*names, *shares, *gains, "protocol_high", "risk_low", "risk_high"]]
    return Table("failed-seeds", caption, columns, rows, frame, total=len(compared))


def _bounded(row: dict[str, object], *names: str) -> str:
    value, low, high = (row[name] for name in names)
    return f"{scores.gain(value)} {scores.gain_interval(low, high)}".strip()
