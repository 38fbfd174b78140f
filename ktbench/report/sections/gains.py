"""Section on gains over no transfer: the maps, the signs, every figure."""

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
from ktbench.report.figures import gain_figure
from ktbench.report.figures.heatmap import METHODS_SHOWN, STUDENTS_SHOWN
from ktbench.report.sections.failed_seeds import failed_seeds
from ktbench.report.significance import UNDECIDED
from ktbench.report.verdict import gain_box

_TEACHERS_SHOWN = 4
_SIGN_STUDENTS = 12
_INTERVAL_STUDENTS = 6
"""Limit of sign columns that leave room for intervals."""

_WITHOUT = {"failed": "failed", "damaged": "damaged", "skipped": "skipped", "pending": "not run"}
"""Words for the status of cells that have no result."""


def gains(analysis: Analysis) -> Section:
    """Build the section: a heat map per teacher, study A's sign table, every gain in figures."""
    frame = analysis.gains.assign(letters=_letters(analysis))
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
    parts.append(_sign_table(analysis, compared))
    parts += failed_seeds(analysis)
    parts += _family_note(compared)
    parts += _unsettled(compared)
    parts.append(_gain_table(compared))
    interval = "Student's t interval"
    if (compared["race"] != "").any():
        interval = "an interval that holds at every number of seeds"
    lead = (
        f"{_gain_words()} with the same student and seed, so "
        f"with the same initial weights and data order; mean over n seeds with {interval} "
        f"at {100 * stats.LEVEL:.0f} %, each on its own; a seed that failed by the technique's own "
        "doing counts at chance level, and “n = 4 of 5” marks fewer seeds than planned. Signs are "
        "judged among all comparisons: full colour marks what is clear among them."
    )
    lead += scores.direction()
    if not frame["own_failures"].any():
        lead += " No seed failed by its technique's own doing."
    return Section("gains", "Gains over no transfer", lead, parts)


def _gain_words() -> str:
    word = scores.word()
    if scores.metric().better == "less":
        return f"Test {word} of no transfer minus that of each method"
    return f"Test {word} of each method minus that of no transfer"


def _letters(analysis: Analysis) -> list[str]:
    """Compact letters of each group of `Analysis.gains`, with the usual training alone.

    Letters of another training would be those of other comparisons.
    """
    names = ["student", "method", "teacher", "budget"]
    standings = analysis.results.techniques
    usual = standings[standings["training"] == ""]
    letters = dict(
        zip(usual[names].itertuples(index=False, name=None), usual["letters"], strict=True)
    )
    groups = analysis.gains[["student", "plain_method", "teacher", "budget"]]
    return [letters.get(group, "") for group in groups.itertuples(index=False, name=None)]


def _map(
    analysis: Analysis, frame: pd.DataFrame, teacher: str, name: str, *, several: bool
) -> Part:
    own = frame[(frame["teacher"] == teacher) | (frame["teacher"] == "")]
    methods = [m for m in analysis.methods if (own["method"] == m).any()]
    caption = f"Gain in test {scores.word()} over no transfer{scores.in_unit()}"
    caption += f", teacher {teacher}." if several else "."
    if (own["budget"] != "").any():
        caption += (
            " [In brackets]: another training, compared with no transfer trained likewise, or, of a"
            " blockwise student's control, at equal cost."
        )
    if len(methods) > METHODS_SHOWN:
        caption += " " + _first_of(METHODS_SHOWN, len(methods), "methods", "gains")
    if len(analysis.students) > STUDENTS_SHOWN:
        caption += " " + _first_of(STUDENTS_SHOWN, len(analysis.students), "students", "gains")
    return gain_figure(own, name=name, caption=caption, students=analysis.students, methods=methods)


def _first_of(shown: int, total: int, what: str, table: str) -> str:
    return f"First {shown} of {total:,} {what}; all in tables/{table}.csv."


def _family_note(compared: pd.DataFrame) -> list[Part]:
    """Note on the level, the family and the test; nothing where nothing was judged."""
    judged = compared[compared["sign"] != "unknown"]
    if judged.empty:
        return []
    alpha = f"{100 * (1 - stats.LEVEL):.0f} %"
    if (judged["race"] != "").any():
        return [Note(_race_words(judged, alpha), "muted")]
    failed = (judged["pairs_failed"] + judged["baseline_failed"] > 0).any()
    where_failed = ", and of the interval's own p where seeds failed," if failed else ""
    alone = int(((judged["sign"] == "none") & (judged["alone"] != "none")).sum())
    words = (
        f"Signs are those of paired t tests (two-sided){where_failed} of "
        f"{numbers.count(len(judged), 'comparison')},"
        " one family: every student, method and teacher whose seeds differ. Their p is adjusted by "
        f"Holm's step-down: the chance of any false sign in the whole table is at most {alpha}. "
    )
    if alone:
        words += (
            f"{numbers.count(alone, 'interval')} "
            f"excluding zero on {'its' if alone == 1 else 'their'} "
            f"own {'does' if alone == 1 else 'do'} not stay clear among so many. "
        )
    least = stats.least_sign_flip_p(int(judged["n"].max()))
    if least > (1 - stats.LEVEL) / len(judged):
        words += (
            "The t test takes differences between seeds for normal; the exact test, which does "
            "not (signs flipped in all ways), "
            f"cannot show less than p = {numbers.small(least)} with "
            f"{numbers.count(int(judged['n'].max()), 'seed')}, so it decides nothing here. "
        )
    words += "Intervals cover the spread over seeds, not the choice of test samples."
    return [Note(words, "muted")]


def _race_words(judged: pd.DataFrame, alpha: str) -> str:
    """Say how seeds were added, and what the signs stand for then."""
    states = judged["race"].value_counts()
    left = ", ".join(
        f"{states[name]} {words}"
        for name, words in (
            ("decided", "decided"),
            ("hopeless", "given up, as the last seed would hardly decide them"),
            ("exhausted", "undecided with all their seeds"),
            ("open", "still open"),
        )
        if states.get(name)
    )
    least, most = int(judged["n"].min()), int(judged["n"].max())
    seeds = f"{most} for each" if least == most else f"{least} to {most} for a"
    return (
        f"Seeds were added one by one, {seeds} comparison: {left}. Signs are those of e-values, "
        "which may be read after every seed, and, at the last seed, of paired t tests by Holm's "
        "step-down: the chance of any false sign in the whole table is at most "
        f"{alpha}. Tests of technique against technique take the number of seeds for fixed, which "
        "it was not. Intervals cover the spread over seeds, not the choice of test samples."
    )


_SIGNS = {
    "positive": ("+", "gain"),
    "none": ("0", "none"),
    "negative": ("−", "loss"),
    "unknown": ("?", "muted"),
}


def _sign_table(analysis: Analysis, compared: pd.DataFrame) -> Table:
    students = analysis.students[:_SIGN_STUDENTS]
    bounded = len(students) <= _INTERVAL_STUDENTS
    labels = list(dict.fromkeys(compared["label"]))
    by_name = {(r["student"], r["label"]): r for r in rows_of(compared)}
    rows = [
        [
            Box(label),
            *(_sign_box(by_name.get((student, label)), bounded=bounded) for student in students),
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
        f"Signs: + clear gain, 0 no clear difference, − clear loss, at {100 * stats.LEVEL:.0f} % "
        f"for the whole table, over {_seeds(compared)}; (+) and (−) are clear on their own, but "
        f"not among all; ? fewer than {stats.LEAST_SEEDS} seeds, or without a difference."
        + (f" Beside each, the gain's own interval{scores.in_unit(' in ')}." if bounded else ""),
        [Column("technique", number=False), *(Column(s, number=False) for s in students)],
        rows,
        wide.reset_index(),
        total=len(labels),
        more=more,
    )


def _sign_box(row: Row | None, *, bounded: bool) -> Box:
    if row is None:
        return Box(numbers.NOTHING, "muted", "not in the matrix")
    if row["n"] == 0:
        status = max(_WITHOUT, key=lambda s: row[s])
        bad = status in ("failed", "damaged")
        return Box(_WITHOUT[status], "bad" if bad else "muted", row["reason"])
    if not row["arrived"]:
        words = f"{_SIGNS[row['sign']][0]} {row['pairs_failed']} of {row['n']} failed"
        return Box(words, "bad", f"{gain_box(row).text}: {row['reason']}")
    sign, kind = _SIGNS[row["sign"]]
    if row["sign"] == "none" and row["alone"] != "none":
        sign = f"({_SIGNS[row['alone']][0]})"
    bounds = scores.gain_interval(row["gain_low"], row["gain_high"])
    words = f"{scores.gain(row['gain'])} {scores.unit()} {bounds}, {gain_words.counted(row)}"
    hint = gain_words.with_arrived(words, row)
    if numbers.known(row["p"]):
        hint += f", p = {numbers.small(row['p'])}, among all {numbers.small(row['p_holm'])}"
    marks = [f"{gain_words.seeds(row)} seeds"] if row["n"] < row["planned"] else []
    marks += [f"{gain_words.failures(row)} failed"] if gain_words.failures(row) else []
    sign = f"{sign} {bounds}".strip() if bounded else sign
    return Box(" · ".join([sign, *marks]), f"chip {kind}", hint)


def _seeds(compared: pd.DataFrame) -> str:
    counts = sorted(set(compared.loc[compared["n"] > 0, "n"]))
    if not counts:
        return "no seeds yet"
    low, high = counts[0], counts[-1]
    return f"n = {low} seeds" if low == high else f"n = {low} to {high} seeds"


def _gain_table(compared: pd.DataFrame) -> Table:
    bootstrapped = bool(compared["bca_low"].notna().any())
    failing = bool(compared["own_failures"].any())
    rows = [
        [
            Box(r["student"]),
            Box(r["label"]),
            Box(scores.figure(r["accuracy"])),
            gain_box(r) if r["n"] else Box(numbers.NOTHING, "muted", r["reason"]),
            Box(numbers.significant(r["effect"], 2)),
            Box(numbers.small(r["p"])),
            Box(numbers.small(r["p_holm"])),
            *([_bootstrap_box(r)] if bootstrapped else []),
            gain_words.seeds_box(r),
            *([gain_words.failed_box(r)] if failing else []),
            Box(scores.gain(r["validation_gain"])),
            Box(_troubles(r), "muted", r["reason"]),
        ]
        for r in rows_of(compared)[:ROWS_SHOWN]
    ]
    columns = [
        Column("student", number=False),
        Column("method", number=False),
        Column(f"test {scores.word()}"),
        Column(f"gain, {scores.unit()}"),
        Column("effect", hint="Cohen's d_z with Hedges' correction: mean over standard deviation"),
        Column("p", hint="paired t test, two-sided, on its own"),
        Column("p among all", hint="adjusted by Holm's step-down"),
        *([Column(f"bootstrap, {scores.unit()}", hint="BCa interval")] if bootstrapped else []),
        Column("n"),
        *([Column("failed seeds", hint="by the technique's own doing")] if failing else []),
        Column("gain on validation"),
        Column("not done", number=False),
    ]
    caption = f"Every gain in figures; {scores.words()} are means over seeds."
    frame = compared.drop(columns=["plain_method", "is_baseline", "parameters"])
    return Table("gains", caption, columns, rows, frame, total=len(compared))


def _bootstrap_box(row: Row) -> Box:
    bounds = scores.gain_interval(row["bca_low"], row["bca_high"])
    few = f"fewer than {stats.LEAST_FOR_BCA} seeds"
    return Box(bounds) if bounds else Box(numbers.NOTHING, "muted", few)


def _unsettled(compared: pd.DataFrame) -> list[Part]:
    """Table of undecided comparisons and the seeds that would decide them, if any."""
    left = compared[compared["sign"].isin(UNDECIDED) & (compared["n"] > 0)]
    if left.empty:
        return []
    failing = bool(compared["own_failures"].any())
    can_decide = left[left["settled_by"].notna()].sort_values("settled_by", kind="stable")
    ordered = pd.concat([can_decide, left[left["settled_by"].isna()]])
    rows = [
        [
            Box(r["student"]),
            Box(r["label"]),
            gain_box(r),
            Box(numbers.small(r["p_holm"])),
            gain_words.seeds_box(r),
            *([gain_words.failed_box(r)] if failing else []),
            Box(str(int(r["settled_by"])) if numbers.known(r["settled_by"]) else numbers.NOTHING),
            Box(r["unsettled_why"], "muted"),
        ]
        for r in rows_of(ordered)[:ROWS_SHOWN]
    ]
    columns = [
        Column("student", number=False),
        Column("method", number=False),
        Column(f"gain, {scores.unit()}"),
        Column("p among all"),
        Column("n"),
        *([Column("failed seeds")] if failing else []),
        Column("seeds to decide", hint="in all, with those that there are"),
        Column("why", number=False),
    ]
    raced = (left["race"] != "").any()
    caption = f"Undecided: {numbers.count(len(left), 'comparison')}."
    settling = (
        " “Seeds to decide” is the total with "
        f"which the test has {100 * stats.POWER:.0f} % power if gain and spread stay as they are; "
        f"more seeds can decide {len(can_decide)} of them. `ktbench plan MATRIX.yaml --settle DIR` "
        f"writes the matrix with these seeds. A gain within ±{scores.smallest_gain()} "
        "of zero is not worth more seeds."
    )
    caption += "" if raced else settling
    names = ["student", "method", "teacher", "gain", "gain_low", "gain_high", "n", "planned"]
    names += ["own_failures", "tried", "protocol_gain", "sign", "p"]
    frame = ordered[[*names, "p_holm", "settled_by", "unsettled_why"]]
    return [Table("unsettled", caption, columns, rows, frame, total=len(ordered))]


def _troubles(row: Row) -> str:
    return ", ".join(f"{row[s]} {w}" for s, w in _WITHOUT.items() if row[s])
