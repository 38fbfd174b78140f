"""Sections on convergence and training costs."""

from __future__ import annotations

import pandas as pd

from ktbench.report import numbers, scores
from ktbench.report.analysis import Analysis
from ktbench.report.brought_weights import unknown_costs
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
from ktbench.report.figures import convergence_figure
from ktbench.report.figures.curves import METHODS_SHOWN, STUDENTS_SHOWN

# ---------------------------------------------------------------- convergence


def convergence(analysis: Analysis) -> Section:
    """Build the section: curves with seed bands, and the cost to the baseline's accuracy."""
    lead = (
        "How fast a student learns. The target (dotted) is the final validation "
        f"{scores.word()} without "
        "transfer, seed by seed. Costs count up to the end of the first epoch that reaches it, "
        "without interpolation; the same rule applies to no transfer."
    )
    curves = analysis.curves
    if curves.empty:
        return Section("convergence", "Convergence", lead, [Note("No cell has been trained yet.")])
    cells = _drawn(analysis)
    shown = analysis.students[:STUDENTS_SHOWN]
    cells = cells[cells["student"].isin(shown)]
    drawn = curves.loc[curves["key"].isin(cells["key"]), ["key", "epoch", "validation_accuracy"]]
    columns = ["key", "student", "label", "seed"]
    data = drawn.astype({"key": object}).merge(cells[columns], on="key")
    caption = (
        f"Validation {scores.word()} by epoch: mean over seeds, with a band from the lowest to the "
        "highest."
    )
    if len(analysis.students) > STUDENTS_SHOWN:
        caption += f" First {STUDENTS_SHOWN} of {len(analysis.students):,} students."
    if analysis.sweeps_epochs:
        caption += (
            f" Only the budget of {cells['epochs'].max()} epochs, the longest with and without "
            "transfer; “Training efficiency” compares all budgets."
        )
    lines = _lines(cells)
    trained = cells.loc[~cells["is_baseline"], "label"].nunique()
    if trained > METHODS_SHOWN:
        caption += (
            f" The {METHODS_SHOWN} of {trained} methods with the best validation {scores.word()}."
        )
    figure = convergence_figure(
        data, name="convergence", caption=caption, students=shown, methods=lines
    )
    return Section("convergence", "Convergence", lead, [figure, _arrival_table(analysis)])


def _drawn(analysis: Analysis) -> pd.DataFrame:
    """The trained cells whose curves are drawn: of several budgets the longest of both sides."""
    cells = analysis.cells[analysis.cells["accuracy"].notna()]
    if not analysis.sweeps_epochs or cells.empty:
        return cells
    plain = set(cells.loc[cells["is_baseline"], "epochs"])
    taught = set(cells.loc[~cells["is_baseline"], "epochs"])
    longest = max(plain & taught or plain | taught)
    own: pd.DataFrame = cells[cells["epochs"] == longest].copy()
    for part, rest in ((f" [epochs={longest}]", ""), (f"[epochs={longest}, ", "[")):
        own["label"] = own["label"].str.replace(part, rest, regex=False)
    return own


def _lines(cells: pd.DataFrame) -> list[str]:
    """The methods with the best mean validation gain, in the matrix's order."""
    own = cells[~cells["is_baseline"]]
    means = own.groupby("label", sort=False)["validation_gain"].mean().dropna()
    best = set(means.sort_values(ascending=False, kind="stable").index[:METHODS_SHOWN])
    return [label for label in dict.fromkeys(own["label"]) if label in best]


def _arrival_table(analysis: Analysis) -> Table:
    frame = analysis.convergence
    rows = [_arrival_row(r) for r in rows_of(frame)[:ROWS_SHOWN]]
    columns = [
        Column("student", number=False),
        Column("method", number=False),
        Column("seeds that reach it"),
        Column("epochs, median", hint="Kaplan-Meier, with its interval"),
        Column("epochs within the budget", hint="restricted mean, with Student's t interval"),
        Column("× fewer epochs", hint="of the means within the budget, all seeds"),
        Column("seconds, student alone"),
        Column("seconds, with teacher"),
        Column("× faster, with teacher"),
        Column("FLOPs, student alone"),
        Column("FLOPs, with teacher"),
        Column("× fewer FLOPs, with teacher"),
    ]
    caption = (
        f"Cost to the no-transfer's final validation {scores.word()}. A seed that does not "
        "reach it within "
        "its budget, or fails, is censored there: “epochs, median” is that of the Kaplan-Meier "
        "curve with log-log bounds (> is later than the budget), “within the budget” the mean of "
        "what each seed took or was given, and “× fewer epochs” the geometric mean over all seeds "
        "of no transfer's over it, at most that (≤) where the method is censored. "
        "Seconds, FLOPs and their ratios are means over the seeds that reach it, marked “2 of 5” "
        "where not all do. “With teacher” adds its forward passes, not its training."
    ) + unknown_costs(analysis)
    if (analysis.cells["budget"] != "").any():
        caption += (
            " [In brackets]: another training, with the target of no transfer in that training."
        )
    return Table(
        "convergence", caption, columns, rows, frame.drop(columns="is_baseline"), total=len(frame)
    )


def _arrival_row(row: Row) -> list[Box]:
    whole = row["reached"] == row["seeds"]
    some = "" if whole or not row["reached"] else f" ({row['reached']} of {row['seeds']})"
    reached = Box(f"{row['reached']} of {row['seeds']}", "" if whole else "warn")
    seconds = [numbers.seconds(row[name]) for name in ("seconds", "seconds_all")]
    flops = [numbers.scaled(row[name]) for name in ("flops", "flops_all")]
    return [
        Box(row["student"]),
        Box(row["label"]),
        reached,
        Box(_median(row)),
        Box(_mean_within(row)),
        _within_box(row),
        *(Box(text + some) for text in seconds),
        _ratio_box(row, "x_seconds_all", some),
        *(Box(text + some) for text in flops),
        _ratio_box(row, "x_flops_all", some),
    ]


def _median(row: Row) -> str:
    """`4 [3, 6]` epochs; `> 6` where it is later than the budget of 6."""
    value, low, high = (
        f"{row[name]:.3g}" if numbers.known(row[name]) else f"> {row['budget']:.3g}"
        for name in ("median_epoch", "median_low", "median_high")
    )
    return f"{value} [{low}, {high}]" if numbers.known(row["median_low"]) else value


def _mean_within(row: Row) -> str:
    mean, low, high = (row[f"within_{name}"] for name in ("epoch", "low", "high"))
    bounds = f" [{max(low, 0):.3g}, {high:.3g}]" if numbers.known(low) else ""
    return f"{mean:.3g}{bounds}"


def _within_box(row: Row) -> Box:
    """Ratio of means within the budget, as the bound that it is where seeds are censored."""
    if row["is_baseline"]:
        return Box("1×", "muted")
    text = numbers.speedup(row["x_within"], row["x_within_low"], row["x_within_high"])
    return Box(f"≤ {text}" if row["censored"] else text, "warn" if row["censored"] else "")


def _ratio_box(row: Row, name: str, some: str) -> Box:
    if row["is_baseline"]:
        return Box("1×" if row["reached"] else numbers.NOTHING, "muted")
    return Box(numbers.ratio(row[name]) + some)


# ---------------------------------------------------------------- costs


def costs(analysis: Analysis) -> Section:
    """Build the section: training costs per group, and those of the teachers themselves."""
    lead = (
        "“Alone” is the cell's own work; the teacher's forward passes have their own columns. "
        "“As run” is the cell's share of the time that this run took: students trained together "
        "share batches and the teacher's passes, and a cache may save passes."
    ) + unknown_costs(analysis)
    frame = analysis.costs
    rows = [
        [
            Box(r["student"]),
            Box(r["label"]),
            Box(str(r["n"])),
            Box(numbers.seconds(r["seconds"])),
            Box(numbers.seconds(r["teacher_seconds"])),
            Box(numbers.seconds(r["shared_seconds"])),
            Box(numbers.scaled(r["flops"])),
            Box(numbers.scaled(r["teacher_flops"])),
        ]
        for r in rows_of(frame)[:ROWS_SHOWN]
    ]
    columns = [
        Column("student", number=False),
        Column("method", number=False),
        Column("n"),
        Column("seconds alone"),
        Column("teacher's seconds"),
        Column("seconds as run"),
        Column("FLOPs alone"),
        Column("teacher's FLOPs"),
    ]
    table = Table(
        "costs",
        "Cost of one whole training (means over seeds).",
        columns,
        rows,
        frame.drop(columns="is_baseline"),
        total=len(frame),
    )
    parts: list[Part] = [table]
    if len(analysis.results.teachers):
        parts += [_teacher_table(analysis), *_doubts(analysis), *_teacher_note(analysis)]
    return Section("costs", "Training costs", lead, parts)


def _doubts(analysis: Analysis) -> list[Note]:
    """Say of which teachers the weights are in doubt, and what to do."""
    frame = analysis.results.teachers
    doubtful = rows_of(frame[frame["doubt"] != ""])[:ROWS_SHOWN]
    return [Note(f"Teacher {r['name']}: {r['doubt']}.", "bad") for r in doubtful]


def _teacher_note(analysis: Analysis) -> list[Note]:
    """Note on how much a teacher that is trained for one student alone has to repay."""
    own = analysis.costs.loc[analysis.costs["is_baseline"], "flops"].mean()
    teachers = analysis.results.teachers
    taught = teachers.loc[teachers["brought"] == "", "flops"].astype(float).mean()
    if not (numbers.known(own) and numbers.known(taught) and own > 0 and taught > 0):
        return []
    return [
        Note(
            f"A teacher's own training takes {numbers.ratio(taught / own)} the FLOPs of training a "
            "student without transfer (means). If you train the teacher for one student only, add "
            "this cost; training the student longer may then be better.",
            "muted",
        )
    ]


def _teacher_table(analysis: Analysis) -> Table:
    frame = analysis.results.teachers
    brought = bool((frame["preprocess"] != "").any())
    rows = [
        [
            Box(r["name"]),
            Box(r["student"]),
            *([Box(r["preprocess"] or "as the data has them")] if brought else []),
            Box(scores.figure(r["accuracy"]), "bad" if r["doubt"] else "", r["doubt"]),
            Box(numbers.scaled(r["parameters"])),
            _teacher_cost(r, numbers.seconds(r["seconds"])),
            _teacher_cost(r, numbers.scaled(r["flops"])),
        ]
        for r in rows_of(frame)[:ROWS_SHOWN]
    ]
    columns = [
        Column("teacher", number=False),
        Column("network", number=False),
        *([Column("inputs", number=False)] if brought else []),
        Column(f"test {scores.word()}"),
        Column("parameters"),
        Column("training seconds"),
        Column("training FLOPs"),
    ]
    caption = "The teachers' own training, which no other column of this report includes."
    if (frame["brought"] != "").any():
        caption += " “+ ?”: and that of the weights in a file, which is unknown."
    return Table("teachers", caption, columns, rows, frame, total=len(frame))


def _teacher_cost(row: Row, figure: str) -> Box:
    """A cost of a teacher's training, with what is not known of it."""
    if not row["brought"]:
        return Box(figure)
    hint = f"the cost of the weights in {row['brought']} is unknown"
    return Box("?" if figure == numbers.NOTHING else f"{figure} + ?", "muted", hint)
