"""What each method gains over no transfer: the maps, the signs, every figure."""

from __future__ import annotations

import pandas as pd

from ktbench import stats
from ktbench.report import text
from ktbench.report.analysis import Analysis
from ktbench.report.figures import gain_figure
from ktbench.report.figures.heatmap import METHODS_SHOWN, STUDENTS_SHOWN
from ktbench.report.parts import (
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
from ktbench.report.verdict import gain_box

_TEACHERS_SHOWN = 4
_SIGN_STUDENTS = 12


def gains(analysis: Analysis) -> Section:
    """The heat map per teacher, study A's sign table, and every gain in figures."""
    frame = analysis.gains
    if not analysis.methods:
        words = "The matrix has no method beside no transfer, so there is nothing to compare."
        return Section("gains", "Gains over no transfer", "", [Note(words)])
    parts: list[Part] = []
    teachers = analysis.teachers or [""]
    for number, teacher in enumerate(teachers[:_TEACHERS_SHOWN]):
        name = "gains" if len(teachers) == 1 else f"gains-{number + 1}"
        parts.append(_map(analysis, frame, teacher, name, several=len(teachers) > 1))
    if len(teachers) > _TEACHERS_SHOWN:
        parts.append(Note(_first_of(_TEACHERS_SHOWN, len(teachers), "teachers", "gains"), "muted"))
    compared = frame[~frame["is_baseline"]]
    judged = int((compared["sign"] != "unknown").sum())
    parts.append(_sign_table(analysis, compared))
    parts += [_chance_note(judged)] if judged else []
    parts.append(_gain_table(compared))
    lead = (
        "Test accuracy of each method minus that of no transfer with the same student and seed, so "
        "with the same initial weights and data order; mean over n seeds with Student's t interval "
        f"at {100 * stats.LEVEL:.0f} %. Full colour marks intervals that exclude zero."
    )
    return Section("gains", "Gains over no transfer", lead, parts)


def _map(
    analysis: Analysis, frame: pd.DataFrame, teacher: str, name: str, *, several: bool
) -> Part:
    own = frame[(frame["teacher"] == teacher) | (frame["teacher"] == "")]
    methods = [m for m in analysis.methods if (own["method"] == m).any()]
    caption = "Gain in test accuracy over no transfer, in points"
    caption += f", teacher {teacher}." if several else "."
    if (own["budget"] != "").any():
        caption += " [In brackets]: another training, compared with no transfer trained likewise."
    if len(methods) > METHODS_SHOWN:
        caption += " " + _first_of(METHODS_SHOWN, len(methods), "methods", "gains")
    if len(analysis.students) > STUDENTS_SHOWN:
        caption += " " + _first_of(STUDENTS_SHOWN, len(analysis.students), "students", "gains")
    return gain_figure(own, name=name, caption=caption, students=analysis.students, methods=methods)


def _first_of(shown: int, total: int, what: str, table: str) -> str:
    return f"First {shown} of {total:,} {what}; all in tables/{table}.csv."


def _chance_note(judged: int) -> Note:
    expected = (1 - stats.LEVEL) * judged
    return Note(
        f"{text.count(judged, 'comparison')} at {100 * stats.LEVEL:.0f} % each: if no method "
        f"changed anything, about {expected:.1f} would still look clear by chance. Intervals "
        "cover the spread over seeds, not the choice of test images.",
        "muted",
    )


_SIGNS = {
    "positive": ("+", "gain"),
    "none": ("0", "none"),
    "negative": ("−", "loss"),
    "unknown": ("?", "muted"),
}


def _sign_table(analysis: Analysis, compared: pd.DataFrame) -> Table:
    students = analysis.students[:_SIGN_STUDENTS]
    labels = list(dict.fromkeys(compared["label"]))
    found = {(r["student"], r["label"]): r for r in rows_of(compared)}
    rows = [
        [
            Box(label),
            *(_sign_box(found.get((student, label))) for student in students),
        ]
        for label in labels[:ROWS_SHOWN]
    ]
    more = ""
    if len(analysis.students) > len(students):
        more = _first_of(len(students), len(analysis.students), "students", "signs")
    wide = compared.pivot_table(
        index=["method", "teacher"], columns="student", values="sign", aggfunc="first", sort=False
    )
    return Table(
        "signs",
        f"Signs: + clear gain, 0 no clear difference, − clear loss (t interval at "
        f"{100 * stats.LEVEL:.0f} % over {_seeds(compared)}), ? too few seeds to tell.",
        [Column("technique", number=False), *(Column(s, number=False) for s in students)],
        rows,
        wide.reset_index(),
        total=len(labels),
        more=more,
    )


def _sign_box(row: Row | None) -> Box:
    if row is None:
        return Box(text.NOTHING, "muted", "not in the matrix")
    if row["n"] == 0:
        words = {"failed": "failed", "skipped": "skipped", "pending": "not run"}
        status = max(words, key=lambda s: row[s])
        return Box(words[status], "bad" if status == "failed" else "muted", row["reason"])
    sign, kind = _SIGNS[row["sign"]]
    return Box(sign, f"chip {kind}", f"{text.points(row['gain'])} points, n = {row['n']}")


def _seeds(compared: pd.DataFrame) -> str:
    counts = sorted(set(compared.loc[compared["n"] > 0, "n"]))
    if not counts:
        return "no seeds yet"
    low, high = counts[0], counts[-1]
    return f"n = {low} seeds" if low == high else f"n = {low} to {high} seeds"


def _gain_table(compared: pd.DataFrame) -> Table:
    rows = [
        [
            Box(r["student"]),
            Box(r["label"]),
            Box(text.percent(r["accuracy"])),
            gain_box(r) if r["n"] else Box(text.NOTHING, "muted", r["reason"]),
            Box(str(r["n"])),
            Box(text.points(r["validation_gain"])),
            Box(_troubles(r), "muted", r["reason"]),
        ]
        for r in rows_of(compared)[:ROWS_SHOWN]
    ]
    columns = [
        Column("student", number=False),
        Column("method", number=False),
        Column("test accuracy"),
        Column("gain, points"),
        Column("n"),
        Column("gain on validation"),
        Column("not done", number=False),
    ]
    caption = "Every gain in figures; accuracies are means over seeds."
    frame = compared.drop(columns=["plain_method", "is_baseline", "parameters"])
    return Table("gains", caption, columns, rows, frame, total=len(compared))


def _troubles(row: Row) -> str:
    words = {"failed": "failed", "skipped": "skipped", "pending": "not run"}
    return ", ".join(f"{row[s]} {w}" for s, w in words.items() if row[s])
