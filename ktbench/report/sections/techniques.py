"""Section on technique against technique: which may be the best, and which pairs differ."""

from __future__ import annotations

import pandas as pd

from ktbench import stats
from ktbench.report import numbers, scores
from ktbench.report.analysis import Analysis
from ktbench.report.best_techniques import LEVEL, contested, together
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
from ktbench.results.techniques import OverStudents

_KINDS = {
    "best": "chip gain",
    "may be best": "chip gain",
    "clearly worse": "chip loss",
    "not judged": "chip muted",
}


def techniques(analysis: Analysis) -> tuple[Section, ...]:
    """Build the section; nothing unless some student has two methods with figures."""
    frame = contested(analysis)
    if frame.empty:
        return ()
    parts: list[Part] = [_best_table(frame), *_pair_parts(analysis, frame)]
    wholes = together(analysis)
    if wholes:
        parts += _over_students(wholes)
    lead = (
        "Which technique is best here, and which are not clearly worse? The techniques that may be "
        f"best hold the truly best one with {LEVEL} confidence, for each student on its own. A "
        "technique is clearly worse, and left out, where another beats it by more than chance "
        "explains, seed by seed. No transfer contends like any technique. Not clearly worse is "
        "not the same as equal: more seeds leave out more."
    )
    return (Section("techniques", "Technique against technique", lead, parts),)


def _best_table(frame: pd.DataFrame) -> Table:
    several = bool((frame["training"] != "").any())
    rows = [
        [
            Box(r["student"]),
            *([Box(r["training"] or "usual", "" if r["training"] else "muted")] if several else []),
            Box(r["technique"]),
            *_standing_boxes(r),
            Box(r["letters"] or numbers.NOTHING, "" if r["letters"] else "muted"),
            _seed_box(r),
        ]
        for r in rows_of(frame)
    ]
    columns = [
        Column("student", number=False),
        *([Column("training", number=False)] if several else []),
        Column("technique", number=False),
        *_standing_columns(),
        Column("letters", number=False, hint="techniques that share one do not differ clearly"),
        Column("n"),
    ]
    caption = (
        f"Techniques by mean test {scores.word()}: those that may be best, and by how much each "
        "may be "
        f"behind the best at most, at {LEVEL} for one student's techniques together. Techniques "
        "with a common letter do not differ clearly among all pairs of the report, so many at once "
        "that letters tell fewer apart than the search for the best."
    )
    if frame["failed"].any():
        caption += " A training that the technique itself made fail counts as a guess."
    return Table("best", caption, columns, rows[:ROWS_SHOWN], frame, total=len(rows))


def _standing_columns() -> list[Column]:
    of = f"{scores.unit()} of test {scores.word()}" if scores.unit() != scores.word() else ""
    return [
        Column(f"test {scores.word()}"),
        Column("is it best?", number=False),
        Column(f"{scores.unit()} behind the best, at most", hint=of),
    ]


def _standing_boxes(row: Row) -> list[Box]:
    hint = f"p of being the best = {numbers.small(row['p'])}" if numbers.known(row["p"]) else ""
    return [
        Box(scores.figure(row["accuracy"])),
        Box(row["standing"], _KINDS[row["standing"]], hint),
        Box(_behind(row["behind"])),
    ]


def _behind(value: float) -> str:
    return scores.metric().bare(value) if value < float("inf") else numbers.NOTHING


def _seed_box(row: Row) -> Box:
    failed = f" ({row['failed']} failed)" if row["failed"] else ""
    return Box(f"{row['n']}{failed}")


def _pair_parts(analysis: Analysis, frame: pd.DataFrame) -> list[Part]:
    """Table of the pairs that differ clearly, and what the family is; a note where none does."""
    every = analysis.results.technique_pairs
    judged = int(every["p"].notna().sum())
    if not judged:
        words = (
            f"No pair of techniques has {stats.LEAST_SEEDS} seeds that differ, so none is judged."
        )
        return [Note(words, "muted")]
    clear = every[every["sign"] == "positive"].sort_values("p", kind="stable")
    family = (
        f"{numbers.count(judged, 'pair')} of techniques with the same student and training, one "
        "family: paired t tests over seeds (two-sided), adjusted by Holm's step-down, so that the "
        f"chance of any false difference is at most {100 * (1 - stats.LEVEL):.0f}\u00a0%"
    )
    several = bool((every["training"] != "").any())
    rows = [
        [
            Box(r["student"] + (f" [{r['training']}]" if several and r["training"] else "")),
            Box(r["technique"]),
            Box(r["other"]),
            Box(_difference(r), "gain"),
            Box(numbers.small(r["p"])),
            Box(numbers.small(r["p_holm"])),
            Box(str(r["n"])),
        ]
        for r in rows_of(clear)[:ROWS_SHOWN]
    ]
    columns = [
        Column("student", number=False),
        Column("better", number=False),
        Column("worse", number=False),
        Column(f"difference, {scores.unit()}"),
        Column("p", hint="paired t test, two-sided, on its own"),
        Column("p among all", hint="adjusted by Holm's step-down"),
        Column("n"),
    ]
    verb = "differs" if len(clear) == 1 else "differ"
    caption = f"{len(clear)} of {judged} pairs {verb} clearly. {family}."
    more = f"{len(rows)} of {len(every):,} pairs; all in tables/technique-pairs.csv."
    return [Table("technique-pairs", caption, columns, rows, every, more=more)]


def _difference(row: Row) -> str:
    bounds = scores.gain_interval(row["low"], row["high"])
    return f"{scores.gain(row['difference'])} {bounds}".strip()


def _over_students(wholes: list[OverStudents]) -> list[Part]:
    """Table of the techniques over the students of the usual training, and the ranks in words."""
    whole = wholes[0]
    ranked = numbers.known(whole.friedman_p)
    rows = [
        [
            Box(r["technique"]),
            *_standing_boxes(r),
            *([Box(f"{r['rank']:.1f}"), Box(r["letters"])] if ranked else []),
            Box(str(r["n"])),
        ]
        for r in rows_of(whole.standings)
    ]
    columns = [
        Column("technique", number=False),
        *_standing_columns(),
        *([Column("mean rank", hint="1 is the best"), *_RANK_LETTERS] if ranked else []),
        Column("n", hint="seeds with every student"),
    ]
    count = numbers.count(len(whole.students), "student")
    caption = (
        f"Over {count} together: the mean of their test {scores.words()}, compared seed by seed "
        "as one "
        "student's are above. It speaks of these students, each counting the same."
    )
    if whole.left_out:
        caption += f" Left out, as some student lacks them: {', '.join(whole.left_out)}."
    frame = pd.concat([w.standings.assign(training=w.training) for w in wholes], ignore_index=True)
    table = Table("over-students", caption, columns, rows[:ROWS_SHOWN], frame, total=len(rows))
    return [table, Note(_ranks(whole, count), "muted")] if ranked else [table]


_RANK_LETTERS = (
    Column("letters of ranks", number=False, hint="Nemenyi's test: a common one is no difference"),
)


def _ranks(whole: OverStudents, count: str) -> str:
    clear = whole.friedman_p <= 1 - stats.LEVEL
    techniques = len(whole.standings)
    return (
        f"Would the order be the same on further students? Ranks within each of {count} "
        f"{'differ clearly between techniques' if clear else 'do not differ clearly'} "
        f"(Friedman's test, p = {numbers.small(whole.friedman_p)}). Two techniques differ clearly "
        f"(Nemenyi's test) where their mean ranks are {whole.critical_difference:.1f} or more "
        f"apart, of {techniques - 1} at most: few students show little here."
    )
