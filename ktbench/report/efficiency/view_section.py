"""Section on reused augmentations, where a matrix has them beside fresh ones."""

from __future__ import annotations

import pandas as pd

from ktbench import stats
from ktbench.report import gain_words, numbers, scores
from ktbench.report.analysis import Analysis
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
from ktbench.report.efficiency import view_reuse
from ktbench.report.verdict import gain_box


def views(analysis: Analysis) -> tuple[Section, ...]:
    """Build the section; nothing unless cells differ in their views alone."""
    pairs = analysis.reused
    if pairs.empty:
        return ()
    lead = (
        "Epochs cycle through K views (augmentations) per sample, so that a teacher's outputs can "
        f"be reused, or draw new ones every time. The difference is the test {scores.word()} "
        "with views "
        "minus that with fresh augmentations, for the same student, method, teacher, seed and "
        "training: mean over n seeds, with each row's own Student's t interval at "
        f"{100 * stats.LEVEL:.0f} %. Full colour marks differences that are clear among all rows "
        "of their table (paired t tests, Holm's step-down). They are of the seeds that finished; "
        "“4 of 5” marks fewer than were planned."
    )
    parts: list[Part] = [
        _overall_table(view_reuse.overall(pairs)),
        _table(view_reuse.by_group(pairs)),
    ]
    parts.append(
        Note(
            "Times are not compared, because a cell's time depends on which cells shared its "
            "batches and on the content of the cache.",
            "muted",
        )
    )
    return (Section("views", "Reused augmentations", lead, parts),)


def _columns(first: list[Column]) -> list[Column]:
    return [
        *first,
        Column(f"test {scores.word()}, fresh"),
        Column("with views"),
        Column(f"difference, {scores.unit()}"),
        Column("p among all", hint="paired t test, adjusted by Holm's step-down"),
        Column("n"),
        Column(
            "teacher's passes saved",
            hint="for a cell trained alone, with a cache of the outputs that its method reads",
        ),
    ]


def _figures(row: Row) -> list[Box]:
    saved = numbers.known(row["saved"])
    return [
        Box(scores.figure(row["fresh"])),
        Box(scores.figure(row["reused"])),
        gain_box({**row, "is_baseline": False}),
        Box(numbers.small(row["p_holm"])),
        gain_words.seeds_box(row),
        Box(numbers.percent(row["saved"]), "" if saved else "muted", "" if saved else "no teacher"),
    ]


def _overall_table(frame: pd.DataFrame) -> Table:
    rows = [[Box(str(r["views"])), Box(str(r["groups"])), *_figures(r)] for r in rows_of(frame)]
    caption = (
        "All students and methods with a teacher that have every seed. Each seed's mean over them "
        "counts once, because cells of one seed are not independent. Saved: the share of the "
        "teacher's passes whose view had come before, 1 − min(E, K) / E over E epochs with a "
        "teacher, for a cell trained alone with a cache."
    )
    first = [Column("views", number=False), Column("student × method")]
    return Table("views", caption, _columns(first), rows, frame)


def _table(frame: pd.DataFrame) -> Table:
    rows = [
        [Box(r["student"]), Box(r["label"]), Box(str(r["views"])), *_figures(r)]
        for r in rows_of(frame)[:ROWS_SHOWN]
    ]
    first = [Column("student", number=False), Column("method", number=False), Column("views")]
    caption = "Each student and method. No transfer has no teacher's passes to save."
    shown = frame.drop(columns="is_baseline")
    return Table("views-each", caption, _columns(first), rows, shown, total=len(frame))
