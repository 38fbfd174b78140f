"""The best techniques in words: per student, and over the students together."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from ktbench import stats
from ktbench.report import numbers
from ktbench.report.analysis import Analysis
from ktbench.report.document import Row, rows_of
from ktbench.results.contenders import NO_TRANSFER
from ktbench.results.techniques import OverStudents

LEVEL = f"{100 * stats.LEVEL:.0f}\u00a0%"
_STUDENTS_SAID, _TECHNIQUES_SAID = 4, 4


def contested(analysis: Analysis) -> pd.DataFrame:
    """`Results.techniques` of the students and trainings with two methods or more."""
    frame = analysis.results.techniques
    if frame.empty:
        return frame
    methods = (~frame["is_baseline"]).groupby([frame["student"], frame["training"]])
    return frame[methods.transform("sum") > 1].reset_index(drop=True)


def _main_first(analysis: Analysis) -> list[str]:
    """Every training, the usual one first, then the longest."""
    epochs = analysis.results.contenders.groupby("training", sort=False)["epochs"].max()
    return sorted((str(name) for name in epochs.index), key=lambda t: (t != "", -epochs[t]))


def together(analysis: Analysis) -> list[OverStudents]:
    """Comparisons over students with two methods or more, the usual training first."""
    order = _main_first(analysis)
    wholes = [
        whole
        for whole in analysis.results.compared_techniques.over_students
        if (~whole.standings["is_baseline"]).sum() > 1
    ]
    return sorted(wholes, key=lambda whole: order.index(whole.training))


def best_sentences(analysis: Analysis) -> list[str]:
    """Sentences that name the techniques that may be best; none without techniques to compare."""
    frame = contested(analysis)
    if frame.empty:
        return []
    if (frame["standing"] == "not judged").all():
        return [
            f"Which technique is best cannot be told from {_seeds(frame)}: that takes "
            f"{stats.LEAST_SEEDS} or more."
        ]
    place = frame["training"].map(_main_first(analysis).index)
    main = frame.loc[place.sort_values(kind="stable").index].drop_duplicates("student")
    first = main.set_index("student")["training"]
    students = [student for student in analysis.students if student in first.index]
    lines = []
    for whole in together(analysis)[:1]:
        where = f"Over {numbers.count(len(whole.students), 'student')} together"
        where += f" with {whole.training}" if whole.training else ""
        lines.append(_sentence(where, whole.standings))
    for student in students[:_STUDENTS_SAID]:
        of_student = frame[(frame["student"] == student) & (frame["training"] == first[student])]
        where = f"On {student}" + (f" with {first[student]}" if first[student] else "")
        lines.append(_sentence(where, of_student))
    if len(students) > _STUDENTS_SAID:
        more = numbers.count(len(students) - _STUDENTS_SAID, "more student")
        lines[-1] += f" The section on techniques has {more}."
    return lines


def _seeds(frame: pd.DataFrame) -> str:
    return numbers.count(int(frame["n"].max()), "seed")


def _sentence(where: str, standings: pd.DataFrame) -> str:
    """One contest in words: the best, or those among which the best is."""
    inside = standings[standings["standing"] != "clearly worse"]
    if "validation" in inside:  # what is chosen is chosen on validation
        inside = inside.sort_values("validation", ascending=False, kind="stable")
    others = len(standings) - len(inside)
    told = f"n = {standings['n'].max()}, {LEVEL}"
    if len(inside) == 1:
        name = _named(_first(inside))
        worse = {1: "the other is", 2: "both others are"}.get(others, f"all {others} others are")
        return f"{where}, {name} is best: {worse} clearly worse ({told})."
    if not others:
        words = f"none of {len(standings)} is clearly worse than the best"
        return f"{where}, no technique stands out: {words} ({told})."
    names = _listed([_named(row) for row in rows_of(inside)])
    worse = f"{others} {'is' if others == 1 else 'are'} clearly worse"
    if NO_TRANSFER in set(inside["technique"]):
        names += " (no transfer among them)"
    elif NO_TRANSFER in set(standings["technique"]):
        worse += ", no transfer among them"
    return f"{where}, the best is one of {len(inside)}: {names}; {worse} ({told})."


def _named(row: Row) -> str:
    """A technique in bold, with the seeds in which it failed."""
    failed = f" (failed in {row['failed']} of {row['n']})" if row.get("failed") else ""
    return f"**{row['technique']}**{failed}"


def _first(frame: pd.DataFrame) -> Row:
    return rows_of(frame.head(1))[0]


def _listed(names: Sequence[str]) -> str:
    shown = list(names[:_TECHNIQUES_SAID])
    rest = len(names) - len(shown)
    if rest:
        return f"{', '.join(shown)} and {rest} more"
    return f"{', '.join(shown[:-1])} and {shown[-1]}"
