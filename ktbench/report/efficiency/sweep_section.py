"""Figures and tables of windows of distillation and of pools of teachers."""

from __future__ import annotations

import pandas as pd

from ktbench import stats
from ktbench.report import gain_words, numbers, scores
from ktbench.report.document import ROWS_SHOWN, Box, Column, Part, Row, Table, rows_of
from ktbench.report.efficiency import frames
from ktbench.report.efficiency.sweep_figure import PANELS_SHOWN, Panel, Way, sweep_figure

LEVEL = f"{100 * stats.LEVEL:.0f} %"
"""Level of every interval, in words."""


_DIFFERENCES = (
    f"Differences are paired by seed, with each row's own t interval at {LEVEL}; full colour marks "
    "those that are clear among all rows of a column (Holm's step-down). They are "
    "of the seeds that finished; “4 of 5” marks fewer than were planned."
)


def _change_box(row: Row, name: str) -> Box:
    value, sign = row[name], row[f"{name}_sign"]
    if not numbers.known(value):
        return Box(numbers.NOTHING, "muted")
    kind = {"positive": "gain", "negative": "loss"}.get(sign, "none")
    bounds = scores.gain_interval(row[f"{name}_low"], row[f"{name}_high"])
    hint = f"n = {row[f'{name}_n']}"
    if numbers.known(row[f"{name}_p"]):
        p, among = numbers.small(row[f"{name}_p"]), numbers.small(row[f"{name}_p_holm"])
        hint += f", p = {p}, among all {among}"
    return Box(f"{scores.gain(value)} {bounds}".strip(), kind, hint)


def window_figure(frame: pd.DataFrame) -> list[Part]:
    """Figure of each window's gain and cost; nothing where nothing can be drawn."""
    several = frame["teacher"].nunique() > 1
    panels = [
        Panel(
            f"{own['student'].iloc[0]}, {frames.label_of(first, several=several)}",
            [_way(r, r["window"] or "throughout") for r in rows_of(own)],
        )
        for own in _drawn(frame, ["student", "method", "teacher", "rest"])
        for first in [{**rows_of(own)[0], "window": ""}]
    ]
    return _figure(panels, frame, "efficiency-windows", "transfer throughout", "windows")


def pool_figure(frame: pd.DataFrame) -> list[Part]:
    """Figure of the gain and cost of each use of a pool; nothing where nothing can be drawn."""
    panels = [
        Panel(
            f"{own['student'].iloc[0]}, {own['method'].iloc[0]}",
            [_way(r, f"{r['teacher']}, {_use(r)}") for r in rows_of(own)],
        )
        for own in _drawn(frame, ["pool", "student", "method", "window", "rest"])
    ]
    return _figure(
        panels, frame, "efficiency-pools", "the average of the most teachers", "uses of an ensemble"
    )


def _drawn(frame: pd.DataFrame, by: list[str]) -> list[pd.DataFrame]:
    """The means over all budgets, else the longest budget, of each transfer."""
    known = frame.dropna(subset=["gain", "flops"])
    if (known["epochs"] == 0).any():
        known = known[known["epochs"] == 0]
    else:
        known = known[known["epochs"] == known["epochs"].max()]
    return [own for _, own in known.groupby(by, sort=False) if len(own) > 1]


def _way(row: Row, label: str) -> Way:
    return Way(label, row["flops"], row["gain"], row["gain_low"], row["gain_high"])


def _figure(
    panels: list[Panel], frame: pd.DataFrame, name: str, reference: str, what: str
) -> list[Part]:
    if not panels:
        return []
    averaged = (frame["epochs"] == 0).any()
    budgets = "mean over the common budgets" if averaged else "the longest budget"
    caption = (
        f"Gain in test {scores.word()} over no transfer (dashed), {budgets}, with each one's "
        "own interval "
        f"at {LEVEL} over seeds. At the right, the training's cost relative to {reference}."
    )
    if len(panels) > PANELS_SHOWN:
        caption += f" First {PANELS_SHOWN} of {len(panels)} transfers."
    alternative = f"Gain over no transfer against FLOPs, for {what}"
    return [sweep_figure(panels, name=name, caption=caption, alternative=alternative)]


def _first(frame: pd.DataFrame) -> list[Row]:
    """The rows to show: means over all budgets, where there are any, before the budgets."""
    return rows_of(frame.sort_values("epochs", kind="stable"))[:ROWS_SHOWN]


def window_table(frame: pd.DataFrame) -> Table:
    """Every window beside transfer throughout; `frame` as `sweeps.windows`."""
    several = frame["teacher"].nunique() > 1
    rows = [
        [
            Box(r["student"]),
            Box(frames.label_of(r | {"window": ""}, several=several)),
            Box(str(r["epochs"]) if r["epochs"] else "mean of all"),
            Box(r["window"] or "throughout"),
            Box(scores.figure(r["accuracy"])),
            _change_box(r, "change"),
            _change_box(r, "gain"),
            Box(numbers.ratio(r["flops"])),
            Box(numbers.percent(r["teacher_share"])),
            gain_words.seeds_box(r),
        ]
        for r in _first(frame)
    ]
    columns = [
        Column("student", number=False),
        Column("transfer", number=False),
        Column("epochs"),
        Column("teacher during", number=False),
        Column(f"test {scores.word()}"),
        Column(f"minus throughout, {scores.unit()}"),
        Column(f"minus no transfer, {scores.unit()}"),
        Column("FLOPs relative to throughout"),
        Column("teacher's share of FLOPs"),
        Column("n"),
    ]
    caption = (
        "Transfer during a part of the training; outside it the student learns from labels alone "
        "and no teacher runs. There, the cross-entropy keeps its weight, so the loss becomes "
        f"smaller (“jump”), or takes the weight of all terms (“keep”). {_DIFFERENCES}"
    )
    return Table("efficiency-windows", caption, columns, rows, frame, total=len(frame))


def pool_table(frame: pd.DataFrame) -> Table:
    """Every way to use a pool beside the average of the most; `frame` as `sweeps.pools`."""
    rows = [
        [
            Box(r["student"]),
            Box(r["method"] + (f", {r['window']}" if r["window"] else "")),
            Box(str(r["epochs"]) if r["epochs"] else "mean of all"),
            Box(r["teacher"]),
            Box(_use(r)),
            Box(scores.figure(r["accuracy"])),
            _change_box(r, "change"),
            _change_box(r, "gain"),
            Box(numbers.ratio(r["flops"])),
            Box(numbers.scaled(r["training_flops"])),
            gain_words.seeds_box(r),
        ]
        for r in _first(frame)
    ]
    columns = [
        Column("student", number=False),
        Column("transfer", number=False),
        Column("epochs"),
        Column("teacher", number=False),
        Column("per step", number=False),
        Column(f"test {scores.word()}"),
        Column(f"minus the average, {scores.unit()}"),
        Column(f"minus no transfer, {scores.unit()}"),
        Column("FLOPs relative to the average"),
        Column("teachers' training, FLOPs"),
        Column("n"),
    ]
    caption = (
        "One teacher of an ensemble, one drawn at random for every step, and the average of "
        "several teachers' logits. FLOPs include the teachers' forward passes. “The average” is "
        f"that of the most teachers. {_DIFFERENCES}"
    )
    return Table("efficiency-pools", caption, columns, rows, frame, total=len(frame))


def _use(row: Row) -> str:
    if row["members"] == 1:
        return "one, always the same"
    if row["drawn"] == row["members"]:
        return f"average of all {row['members']}"
    what = "one" if row["drawn"] == 1 else f"average of {row['drawn']}"
    return f"{what} of {row['members']}, drawn"
