"""Verdict on training efficiency: the speedup, its range, and when a teacher pays off."""

from __future__ import annotations

import pandas as pd

from ktbench.report import numbers, scores
from ktbench.report.analysis import Analysis
from ktbench.report.document import Row, rows_of


def saving_sentences(analysis: Analysis) -> list[str]:
    """Two sentences on the transfer with the largest speedup in FLOPs, teacher's passes included.

    Empty where no budget is swept or no seed has two of them on both sides.
    """
    if not analysis.compared:
        return []
    heads = analysis.speedups
    own = heads[(heads["kind"] == "flops") & (heads["students"] == 0)].dropna(subset=["speedup"])
    if own.empty:
        return [
            f"There is no speedup to report: no test {scores.word()} is reached both with and "
            "without transfer."
        ]
    top = rows_of(own.sort_values("speedup", ascending=False, kind="stable").head(1))[0]
    return [_speedup(top, len(own)), *pays(top, analysis.by_budget)]


def spans(row: Row) -> list[str]:
    """The stretches of accuracy at which a row of `headlines` is slower than no transfer."""
    if not row["below"]:
        return []
    parts = [part.split(" to ") for part in row["below"].split("; ")]
    if len(parts) == 1 and parts[0] == [f"{row['q_low']:.4f}", f"{row['q_high']:.4f}"]:
        return ["everywhere"]
    return [span(float(low), float(high)) for low, high in parts]


def span(low: object, high: object) -> str:
    """`43.9 % to 91.8 %`, or one of them where both read alike."""
    ends = scores.figure(low), scores.figure(high)
    return ends[0] if ends[0] == ends[1] else f"{ends[0]} to {ends[1]}"


def _speedup(top: Row, compared: int) -> str:
    name, student = f"**{top['label']}**", top["student"]
    where = f"at {scores.figure(top['q'])} (n = {top['n']}, the teacher's forward passes counted)"
    both = span(top["q_low"], top["q_high"])
    if top["speedup"] > 1:
        claim = f"{name} saves training on {student}"
        doubt = f"It is **undecided** whether {name} saves training on {student}"
        figure = numbers.speedup(top["speedup"], top["speedup_low"], top["speedup_high"])
        figure = (
            f"at best it takes {figure} fewer FLOPs than no transfer to the same {scores.word()}"
        )
        below = ", ".join(spans(top))
        rest = f"it takes more at {below}" if below else f"nowhere from {both} does it take more"
    else:
        claim = "Transfer saves no training"
        doubt = "It is **undecided** whether transfer saves training"
        figure = numbers.speedup(*(1 / top[f"speedup{end}"] for end in ("", "_high", "_low")))
        figure = (
            f"the best, {name} on {student}, takes {figure} the FLOPs to the same {scores.word()}"
        )
        rest = f"training without transfer takes fewer at every {scores.word()} from {both}"
    claimed_sign = "positive" if top["speedup"] > 1 else "negative"
    clear = top["sign"] == claimed_sign
    return f"{claim if clear else doubt + _why(top, compared)}: {figure}, {where}; {rest}."


def _why(top: Row, compared: int) -> str:
    """Reason why a speedup is undecided, where its interval does not show it."""
    low, high = top["speedup_low"], top["speedup_high"]
    if not numbers.known(low):
        return " without an interval over seeds"
    return "" if low <= 1 <= high else f" among all {compared} compared"


def pays(top: Row, budgets: pd.DataFrame) -> list[str]:
    """Sentence on how many students repay the teacher's training, at the longest common budget.

    The longest with an interval, where there is one: few seeds reach the last of a curve.
    """
    mine = (budgets["student"] == top["student"]) & (budgets["label"] == top["label"])
    rows = budgets[mine & budgets["flops_saved"].notna()].sort_values("epochs", kind="stable")
    if rows.empty:
        return []
    bounded = rows[rows["flops_saved_low"].notna()]
    row = rows_of((rows if bounded.empty else bounded).tail(1))[0]
    if not numbers.known(row["flops_training"]):
        return ["The cost of the teacher's own training is unknown, and so is when it pays off."]
    at = (
        f"{scores.figure(row['q'])}, the {scores.word()} of {row['epochs']} epochs without transfer"
    )
    return [f"{_number_of_students(row)}, at {at}."]


def _number_of_students(row: Row) -> str:
    mean, low, high = (row[f"flops_pays_from{end}"] for end in ("", "_low", "_high"))
    known = numbers.known(row["flops_saved_low"])
    if not numbers.known(mean):
        if known and not numbers.known(low):
            return "Training the teacher **never pays off**, however many students share it"
        if known:
            return _may_pay(low)
        return "It is **undecided** whether training the teacher ever pays off: run more seeds"
    if not known:
        return (
            f"Training the teacher pays off from {_students(mean)} on by the mean; without an "
            "interval over seeds that is **undecided**"
        )
    if not numbers.known(high):
        return f"{_may_pay(low)} ({_students(mean)} by the mean)"
    return f"Training the teacher pays off from **{_students(mean)}** on [{low:,.0f}, {high:,.0f}]"


def _may_pay(low: object) -> str:
    return (
        f"Training the teacher may pay off from {_students(low)} on, or never: **undecided**, more "
        "seeds are needed"
    )


def _students(number: object) -> str:
    return numbers.count(int(float(str(number))), "student")
