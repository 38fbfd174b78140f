"""Section on training efficiency: speedup at equal quality, windows, pools of teachers."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from ktbench.records import Ensemble
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
from ktbench.report.efficiency import frames, sweeps
from ktbench.report.efficiency.figure import (
    LINES_SHOWN,
    STUDENTS_SHOWN,
    cost_figure,
    speedup_figure,
)
from ktbench.report.efficiency.frames import Comparison
from ktbench.report.efficiency.summary import span, spans
from ktbench.report.efficiency.sweep_section import (
    LEVEL,
    pool_figure,
    pool_table,
    window_figure,
    window_table,
)

_COUNTED = {"flops": "FLOPs", "seconds": "seconds"}


def efficiency(analysis: Analysis) -> tuple[Section, ...]:
    """Build the section; nothing without several budgets, windows or a pool of teachers."""
    if not _asked(analysis):
        return ()
    frame = analysis.trainings
    taught = frame[frame["teacher"] != ""]
    several = taught.groupby(["student", "method", "teacher", "window", "rest"])["epochs"].nunique()
    windows, pools = sweeps.windows(frame), sweeps.pools(analysis, frame)
    planned = bool((several > 1).any())
    if not planned and windows.empty and pools.empty:
        return ()
    parts: list[Part] = []
    if analysis.compared:
        parts += _speedups(analysis)
    elif planned:
        parts.append(Note("No seed has finished two budgets with and without transfer yet."))
    parts += [*window_figure(windows), window_table(windows)] if len(windows) else []
    parts += [*pool_figure(pools), pool_table(pools)] if len(pools) else []
    lead = (
        "Does transfer save training? This section compares the cost of reaching the same test "
        f"{scores.word()} with and without it. Each budget is a training of its own with its "
        "own full "
        "learning-rate schedule. Costs are those of a cell trained alone, including the teacher's "
        "forward passes; the teacher's own training is included only where stated."
    )
    if any(cell.pretrained is not None for cell in analysis.results.lock.plan.cells):
        lead += (
            " Cells here begin from trainings of another matrix: budgets, transfer and windows are "
            "those of the first training, accuracy is that of the last, and costs are of both."
        )
    lead += unknown_costs(analysis)
    return (Section("efficiency", "Training efficiency", lead, parts),)


def _asked(analysis: Analysis) -> bool:
    """True where any cell may need the section; a quick check, as most matrices have none."""
    cells = analysis.results.lock.plan.cells
    first = [cell if cell.pretrained is None else cell.pretrained.cell for cell in cells]
    taught = [cell for cell in first if cell.teacher is not None]
    several = len({cell.train.epochs for cell in taught}) > 1
    return several or any(c.distill or isinstance(c.teacher, Ensemble) for c in taught)


def _speedups(analysis: Analysis) -> list[Part]:
    comparisons, heads = analysis.compared, analysis.speedups
    shown = _lines(comparisons, heads)
    left_out = (
        f" The {LINES_SHOWN} of each student with the largest speedup in FLOPs."
        if len(shown)
        < len([one for one in comparisons if one.student in {s.student for s in shown}])
        else ""
    )
    students = len({one.student for one in comparisons})
    if students > STUDENTS_SHOWN:
        left_out += f" First {STUDENTS_SHOWN} of {students} students."
    cost = (
        f"Test {scores.word()} by budget against the cost of training: mean over seeds, with a "
        "band from "
        "the lowest to the highest. Rings: the Pareto front. Dotted: the first line with its "
        "teacher's whole training added, as for a single student."
    )
    speed = (
        f"Cost of no transfer over cost with transfer at the same mean {scores.word()}, with "
        "its interval "
        f"at {LEVEL} over seeds; above the dashed line transfer is cheaper. Marks: budgets. "
        "Costs include the teacher's forward passes, but not its training."
    )
    honest = [Note(words, "warn" if bad else "") for words, bad in _honest(heads, comparisons)]
    return [
        *honest,
        cost_figure(shown, name="efficiency-cost", caption=cost + left_out),
        speedup_figure(shown, name="efficiency-speedup", caption=speed + left_out),
        _headline_table(heads),
        _budget_table(analysis.by_budget),
        *_sharing_tables(heads),
        Note(
            "Between two budgets, cost is interpolated linearly in its logarithm between mean "
            f"{scores.words()}; a budget that is no better than a cheaper one is left out. "
            f"{scores.titles()} "
            "that only one side reached have no figure. Intervals: jackknife over seeds with "
            "Student's t, leaving out both sides of a seed together; they cover neither the choice "
            "of test samples nor the luck of the one teacher.",
            "muted",
        ),
    ]


def _lines(comparisons: Sequence[Comparison], heads: pd.DataFrame) -> list[Comparison]:
    """The comparisons that the figures show: of each student those that save most FLOPs, first."""
    own = heads[(heads["kind"] == "flops") & (heads["students"] == 0)]
    best = {(row["student"], row["label"]): row["speedup"] for row in rows_of(own.fillna(0.0))}
    shown = []
    for student in list(dict.fromkeys(one.student for one in comparisons))[:STUDENTS_SHOWN]:
        mine = [one for one in comparisons if one.student == student]
        mine.sort(key=lambda one: -best[one.student, one.label])
        shown += mine[:LINES_SHOWN]
    return shown


# ---------------------------------------------------------------- one student, its own teacher


def _honest(heads: pd.DataFrame, comparisons: Sequence[Comparison]) -> list[tuple[str, bool]]:
    """One sentence per student: does a teacher trained for it alone pay for itself?"""
    alone = heads[(heads["kind"] == "flops") & (heads["students"] == 1)].dropna(subset=["speedup"])
    rows = alone.sort_values("speedup", ascending=False, kind="stable").drop_duplicates("student")
    return [_verdict(row, comparisons) for row in rows_of(rows.sort_index())]


def _verdict(row: Row, comparisons: Sequence[Comparison]) -> tuple[str, bool]:
    """The sentence for the transfer that does best with its teacher's training, and whether bad."""
    between = f"from {scores.figure(row['q_low'])} to {scores.figure(row['q_high'])}"
    figure = f"{_speedup_text(row)} (n = {row['n']})"
    if row["speedup"] <= 1:
        doubt = "" if row["speedup_high"] < 1 else ", though not clear of 1"
        words = (
            f"If you need one student and have to train a teacher for it, training "
            f"{row['student']} longer without transfer is better: at every test {scores.word()} "
            "that both "
            f"reach ({between}) it takes fewer FLOPs on average. The closest is {row['label']}: "
            f"its speedup with the teacher's training is at best {figure}, at "
            f"{scores.figure(row['q'])}{doubt}."
        )
    else:
        clear = numbers.known(row["speedup_low"]) and row["speedup_low"] > 1
        words = (
            f"Even if you train a teacher for one student only, {row['label']} on "
            f"{row['student']} reaches {scores.figure(row['q'])} "
            "with fewer FLOPs than no transfer: "
            f"speedup {figure}{'' if clear else ', which is not clear of 1'}."
        )
    return words + _beyond(row, comparisons), bool(row["speedup"] <= 1)


def _beyond(row: Row, comparisons: Sequence[Comparison]) -> str:
    """Sentence on accuracies that only transfer reaches, for which there is no speedup."""
    one = next(o for o in comparisons if (o.student, o.label) == (row["student"], row["label"]))
    base, own = (
        float(side["flops"].quality.mean(axis=0).max()) for side in (one.baseline, one.treated)
    )
    if own <= base:
        return ""
    beyond = "Above" if scores.metric().better == "more" else "Below"
    return (
        f" {beyond} {scores.figure(base)}, the best {scores.word()} without transfer, there is "
        "nothing to "
        f"compare with; {row['label']} reaches {scores.figure(own)}."
    )


# ---------------------------------------------------------------- tables of speedups


def _speedup_text(row: Row) -> str:
    return numbers.speedup(row["speedup"], row["speedup_low"], row["speedup_high"])


_KINDS = {"positive": "gain", "negative": "loss", "none": "none", "unknown": ""}


def _speedup_box(row: Row) -> Box:
    """A speedup, in full colour where its sign is clear among its column's."""
    if not numbers.known(row["speedup"]):
        return Box(numbers.NOTHING, "muted", f"there is no {scores.word()} that both reach")
    hint = ""
    if numbers.known(row["p"]):
        hint = f"p = {numbers.small(row['p'])}, among all {numbers.small(row['p_holm'])}"
    return Box(_speedup_text(row), _KINDS[row["sign"]], hint)


_FAMILY = (
    "Full colour: clear among all rows of the same kind of cost (Holm's step-down at "
    f"{LEVEL}); the intervals are each row's own."
)


def _headline_table(heads: pd.DataFrame) -> Table:
    frame = heads[heads["students"] == 0].drop(columns="students")
    rows = [
        [
            Box(r["student"]),
            Box(r["label"]),
            Box(str(r["n"])),
            Box(_COUNTED[r["kind"]]),
            _speedup_box(r),
            Box(scores.figure(r["q"])),
            Box(_span(r["q_low"], r["q_high"])),
            Box(_slower(r), "" if r["below"] else "muted"),
        ]
        for r in rows_of(frame)[:ROWS_SHOWN]
    ]
    caption = (
        f"The largest speedup over all {scores.words()} that both sides reach, including the "
        "teacher's "
        "forward passes but not its training. The largest of several noisy figures is too large on "
        "average, so its interval is widened (Bonferroni over the budgets); the next table uses "
        f"{scores.words()} that were fixed in advance. {_FAMILY}"
    )
    columns = [
        *_FIRST,
        Column("cost in", number=False),
        Column("largest speedup"),
        Column(f"at test {scores.word()}"),
        Column("compared over"),
        Column("costs more than no transfer at", hint="where the speedup is below 1"),
    ]
    return Table("efficiency", caption, columns, rows, frame, total=len(frame))


_FIRST = [Column("student", number=False), Column("transfer", number=False), Column("seeds")]


def _span(low: object, high: object) -> str:
    return span(low, high) if numbers.known(low) else numbers.NOTHING


def _slower(row: Row) -> str:
    if not numbers.known(row["q_low"]):
        return numbers.NOTHING
    return ", ".join(spans(row)) or "nowhere"


def _budget_table(frame: pd.DataFrame) -> Table:
    rows = [
        [
            Box(r["student"]),
            Box(r["label"]),
            Box(str(r["n"])),
            Box(str(r["epochs"])),
            Box(scores.figure(r["q"])),
            *(_there(r, kind) for kind in frames.KINDS),
            Box(numbers.speedup(r["flops_alone"], None, None)),
            _pays_box(r),
        ]
        for r in rows_of(frame)[:ROWS_SHOWN]
    ]
    columns = [
        *_FIRST,
        Column("epochs without transfer"),
        Column(f"its test {scores.word()}"),
        Column("speedup in FLOPs"),
        Column("speedup in seconds"),
        Column("speedup in FLOPs, with the teacher's training", hint="for one student alone"),
        Column(
            "teacher pays from", hint="number of students that share one training of the teacher"
        ),
    ]
    caption = (
        f"Speedup at the mean {scores.word()} that each budget without transfer reaches. "
        f"{_FAMILY} A "
        "teacher pays from n students on if n times the FLOPs that each saves exceed those of its "
        "training; [in brackets]: n at the ends of the saving's interval."
    )
    return Table("efficiency-budgets", caption, columns, rows, frame, total=len(frame))


def _there(row: Row, kind: str) -> Box:
    """A speedup at a budget's accuracy, or why there is none."""
    names = ("speedup", "speedup_low", "speedup_high", "p", "p_holm", "sign")
    own = {name: row[f"{kind}_{name}"] for name in names}
    if numbers.known(own["speedup"]):
        return _speedup_box(own)
    if row["q"] > row["best"]:
        best = scores.figure(row["best"])
        return Box("not reached", "muted", f"the best budget with transfer reaches {best}")
    cheapest = scores.figure(row["cheapest"])
    return Box(
        "less was not tried", "muted", f"the cheapest budget with transfer reaches {cheapest}"
    )


def _pays_box(row: Row) -> Box:
    if not numbers.known(row["flops_training"]):
        return Box(numbers.NOTHING, "muted", "the cost of the teacher's training is unknown")
    if not numbers.known(row["flops_saved"]):
        return Box(numbers.NOTHING, "muted")
    if not numbers.known(row["flops_pays_from"]):
        return Box("never", "loss", "a student saves nothing")
    bounds = ""
    if numbers.known(row["flops_saved_low"]):
        low, high = _number(row["flops_pays_from_low"]), _number(row["flops_pays_from_high"])
        bounds = f" [{low}, {high}]"
    return Box(_number(row["flops_pays_from"]) + bounds)


def _number(students: object) -> str:
    return f"{students:,.0f}" if numbers.known(students) else "never"


def _sharing_tables(heads: pd.DataFrame) -> list[Table]:
    """Tables of the largest speedup by number of students that share a teacher's training."""
    shared = heads[(heads["kind"] == "flops") & (heads["students"] > 0)]
    if shared.empty:
        return []
    free = heads[(heads["kind"] == "flops") & (heads["students"] == 0)]
    rows = []
    for (student, label), own in shared.groupby(["student", "label"], sort=False):
        without = free[(free["student"] == student) & (free["label"] == label)]
        boxes = [_speedup_box(r) for r in (*rows_of(own), *rows_of(without))]
        rows.append([Box(str(student)), Box(str(label)), Box(str(own["n"].iloc[0])), *boxes])
    counts = [Column(numbers.count(n, "student")) for n in frames.SHARED_BY]
    caption = (
        "The largest speedup in FLOPs if so many students share the cost of the teacher's own "
        "training, with intervals as above; each column is a family. The cost includes all members "
        "of an ensemble, and teachers' own teachers."
    )
    columns = [*_FIRST, *counts, Column("not counted")]
    return [
        Table("efficiency-sharing", caption, columns, rows[:ROWS_SHOWN], shared, total=len(rows))
    ]
