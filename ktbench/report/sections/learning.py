"""What transfer does to learning: gains, signs, convergence, training costs."""

from __future__ import annotations

from typing import Any

import pandas as pd

from ktbench import stats
from ktbench.report import text
from ktbench.report.analysis import Analysis
from ktbench.report.figures import convergence_figure, gain_figure
from ktbench.report.figures.curves import METHODS_SHOWN, STUDENTS_SHOWN
from ktbench.report.figures.heatmap import METHODS_SHOWN as MAP_METHODS
from ktbench.report.figures.heatmap import STUDENTS_SHOWN as MAP_STUDENTS
from ktbench.report.parts import ROWS_SHOWN, Box, Column, Note, Part, Section, Table
from ktbench.report.verdict import gain_box

_TEACHERS_SHOWN = 4
_SIGN_STUDENTS = 12
_Row = dict[str, Any]


def _rows(frame: pd.DataFrame) -> list[_Row]:
    found: list[_Row] = frame.to_dict("records")  # type: ignore[assignment]
    return found


# ---------------------------------------------------------------- gains and signs


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
    parts += [_sign_table(analysis, compared), _chance_note(judged), _gain_table(compared)]
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
    if len(methods) > MAP_METHODS:
        caption += " " + _first_of(MAP_METHODS, len(methods), "methods", "gains")
    if len(analysis.students) > MAP_STUDENTS:
        caption += " " + _first_of(MAP_STUDENTS, len(analysis.students), "students", "gains")
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
    found = {(r["student"], r["label"]): r for r in _rows(compared)}
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


def _sign_box(row: _Row | None) -> Box:
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
        for r in _rows(compared)[:ROWS_SHOWN]
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


def _troubles(row: _Row) -> str:
    words = {"failed": "failed", "skipped": "skipped", "pending": "not run"}
    return ", ".join(f"{row[s]} {w}" for s, w in words.items() if row[s])


# ---------------------------------------------------------------- convergence


def convergence(analysis: Analysis) -> Section:
    """Curves with seed bands, and what it costs to reach the no-transfer's final accuracy."""
    lead = (
        "How fast a student learns. The target is the validation accuracy at which no transfer "
        "ends (dotted), seed by seed; costs count up to the end of the first epoch that reaches "
        "it, without interpolation, and no transfer is measured by the same rule."
    )
    curves = analysis.curves
    if curves.empty:
        return Section("convergence", "Convergence", lead, [Note("No cell has been trained yet.")])
    cells = analysis.cells.loc[
        analysis.cells["accuracy"].notna(), ["key", "student", "label", "seed"]
    ]
    shown = analysis.students[:STUDENTS_SHOWN]
    cells = cells[cells["student"].isin(shown)]
    wanted = curves.loc[curves["key"].isin(cells["key"]), ["key", "epoch", "validation_accuracy"]]
    data = wanted.astype({"key": object}).merge(cells, on="key")
    caption = "Validation accuracy by epoch: mean over seeds, band from the lowest to the highest."
    if len(analysis.students) > STUDENTS_SHOWN:
        caption += f" First {STUDENTS_SHOWN} of {len(analysis.students):,} students."
    trained = len(_labels(analysis))
    if trained > METHODS_SHOWN:
        caption += f" The {METHODS_SHOWN} of {trained} methods with the best validation accuracy."
    figure = convergence_figure(
        data, name="convergence", caption=caption, students=shown, methods=_lines(analysis)
    )
    return Section("convergence", "Convergence", lead, [figure, _arrival_table(analysis)])


def _labels(analysis: Analysis) -> list[str]:
    """The methods that trained, in the matrix's order."""
    frame = analysis.gains
    return list(dict.fromkeys(frame.loc[~frame["is_baseline"] & (frame["trained"] > 0), "label"]))


def _lines(analysis: Analysis) -> list[str]:
    """The methods with the best mean validation gain, in the matrix's order."""
    frame = analysis.gains
    means = frame[~frame["is_baseline"]].groupby("label", sort=False)["validation_gain"].mean()
    best = set(means.dropna().sort_values(ascending=False, kind="stable").index[:METHODS_SHOWN])
    return [label for label in _labels(analysis) if label in best]


def _arrival_table(analysis: Analysis) -> Table:
    frame = analysis.convergence
    rows = [_arrival_row(r) for r in _rows(frame)[:ROWS_SHOWN]]
    columns = [
        Column("student", number=False),
        Column("method", number=False),
        Column("seeds that reach it"),
        Column("epochs"),
        Column("× fewer epochs"),
        Column("seconds, student alone"),
        Column("seconds, with teacher"),
        Column("× faster, with teacher"),
        Column("FLOPs, student alone"),
        Column("FLOPs, with teacher"),
        Column("× fewer FLOPs, with teacher"),
    ]
    caption = (
        "Cost to the no-transfer's final validation accuracy: means over the seeds that reach it; "
        "ratios are geometric means over those seeds, above 1 is better than no transfer. “With "
        "teacher” adds the teacher's forward passes, not its training."
    )
    return Table(
        "convergence", caption, columns, rows, frame.drop(columns="is_baseline"), total=len(frame)
    )


def _arrival_row(row: _Row) -> list[Box]:
    whole = row["reached"] == row["seeds"]
    reached = Box(f"{row['reached']} of {row['seeds']}", "" if whole else "warn")
    return [
        Box(row["student"]),
        Box(row["label"]),
        reached,
        Box(text.significant(row["epoch"])),
        _ratio_box(row, "x_epoch"),
        Box(text.seconds(row["seconds"])),
        Box(text.seconds(row["seconds_all"])),
        _ratio_box(row, "x_seconds_all"),
        Box(text.scaled(row["flops"])),
        Box(text.scaled(row["flops_all"])),
        _ratio_box(row, "x_flops_all"),
    ]


def _ratio_box(row: _Row, name: str) -> Box:
    if row["is_baseline"]:
        return Box("1×" if row["reached"] else text.NOTHING, "muted")
    return Box(text.ratio(row[name]))


# ---------------------------------------------------------------- costs


def costs(analysis: Analysis) -> Section:
    """Training costs per group, and what the teachers themselves took."""
    lead = (
        "“Alone” is what the cell's own work takes; the teacher's forward passes stand beside it. "
        "“Really” is the cell's share of the clock in this run, where students that share a batch "
        "share the teacher's pass and the data."
    )
    frame = analysis.costs
    rows = [
        [
            Box(r["student"]),
            Box(r["label"]),
            Box(str(r["n"])),
            Box(text.seconds(r["seconds"])),
            Box(text.seconds(r["teacher_seconds"])),
            Box(text.seconds(r["shared_seconds"])),
            Box(text.scaled(r["flops"])),
            Box(text.scaled(r["teacher_flops"])),
        ]
        for r in _rows(frame)[:ROWS_SHOWN]
    ]
    columns = [
        Column("student", number=False),
        Column("method", number=False),
        Column("n"),
        Column("seconds alone"),
        Column("teacher's seconds"),
        Column("seconds really"),
        Column("FLOPs alone"),
        Column("teacher's FLOPs"),
    ]
    table = Table(
        "costs",
        "Cost of one whole training: means over seeds.",
        columns,
        rows,
        frame.drop(columns="is_baseline"),
        total=len(frame),
    )
    parts: list[Part] = [table]
    if len(analysis.results.teachers):
        parts += [_teacher_table(analysis), *_teacher_note(analysis)]
    return Section("costs", "Training costs", lead, parts)


def _teacher_note(analysis: Analysis) -> list[Note]:
    """How much a teacher that is trained for one student alone has to repay."""
    own = analysis.costs.loc[analysis.costs["is_baseline"], "flops"].mean()
    taught = analysis.results.teachers["flops"].astype(float).mean()
    if not (text.known(own) and text.known(taught) and own > 0 and taught > 0):
        return []
    return [
        Note(
            f"A teacher's own training takes {text.ratio(taught / own)} the FLOPs of training a "
            "student without transfer (means). Where the teacher is trained for one student "
            "alone, that belongs to the bill, and training the student longer may be better.",
            "muted",
        )
    ]


def _teacher_table(analysis: Analysis) -> Table:
    frame = analysis.results.teachers
    rows = [
        [
            Box(r["name"]),
            Box(r["student"]),
            Box(text.percent(r["accuracy"])),
            Box(text.scaled(r["parameters"])),
            Box(text.seconds(r["seconds"])),
            Box(text.scaled(r["flops"])),
        ]
        for r in _rows(frame)[:ROWS_SHOWN]
    ]
    columns = [
        Column("teacher", number=False),
        Column("network", number=False),
        Column("test accuracy"),
        Column("parameters"),
        Column("training seconds"),
        Column("training FLOPs"),
    ]
    caption = "The teachers' own training, in no other column of this report."
    return Table("teachers", caption, columns, rows, frame, total=len(frame))
