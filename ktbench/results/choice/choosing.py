"""The choice: the best file on validation within the limits, and how sure that is.

Validation chooses. The test set, which nothing was chosen by, then says how good the file is, and
by paired seeds whether another student or technique within the limits may be better.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from ktbench import stats
from ktbench.records import KtbenchError, Metric
from ktbench.results import Results
from ktbench.results.choice.candidates import Candidate, Contender, LeftOut, candidates, device_of
from ktbench.results.choice.limits import BY_BOUND, HELD, MISSED, Check, Limits, Verdict, told

Standing = Literal["the only one", "not judged", "best", "may be best", "clearly worse"]


@dataclass(frozen=True)
class Checked:
    """A candidate beside the limits."""

    candidate: Candidate
    checks: tuple[Check, ...]

    @property
    def tier(self) -> int:
        """0 where all limits are held, 1 where some are missed by their bounds only, else 2."""
        order: list[Verdict] = [HELD, BY_BOUND, MISSED]
        return max((order.index(check.verdict) for check in self.checks), default=0)

    @property
    def excess(self) -> float:
        """Largest share by which a limit is missed."""
        return max((check.excess for check in self.checks), default=0.0)


@dataclass(frozen=True)
class Certainty:
    """Certainty of the choice, by paired seeds on the test set."""

    standing: Standing
    """`best`: every other contender within the limits is clearly worse; `clearly worse`: another
    one is clearly better on the test set than what validation chose."""
    rivals: int
    """Other students and techniques within the limits."""
    may_be_best: tuple[Contender, ...] = ()
    """Those, the chosen one included, that are not clearly worse than the best."""
    behind: float | None = None
    """At most so far behind the best, in quality; None where that is not known."""
    level: float = stats.LEVEL


@dataclass(frozen=True)
class Choice:
    """The answer: a file, its figures, the runner-up, and what was left out and why."""

    name: str
    """Name of the matrix."""
    metric: Metric
    limits: Limits
    device: str | None
    file: Checked
    file_test: tuple[float, float] | None
    """Wilson's interval of the file's test accuracy; None for other metrics, and where the number
    of test samples is not on record."""
    test_size: int | None
    runner_up: Checked | None
    """The best of the other students and techniques within the limits."""
    lead: stats.Interval | None
    """Test quality of the choice minus that of the runner-up, over the seeds that both have."""
    certainty: Certainty
    left_out: tuple[LeftOut, ...] = field(repr=False)


def best(results: Results, limits: Limits, device: str | None = None) -> Choice:
    """Choose among the files of finished results.

    Limits are held by the end of an interval that counts against a file: the upper bound of its
    90th percentile, the lower bound of its validation accuracy over seeds. Where none holds them
    so, the figures themselves decide, and the checks of the choice say so. Raises KtbenchError
    where no file holds the limits, with the nearest miss, and where there is no file at all.
    """
    device = device_of(results, device, needed=limits.p90_ms is not None)
    every, left = candidates(results, device)
    if not every:
        raise KtbenchError(f"{results.source}: there is no file to take: {_nothing(results, left)}")
    checked = [Checked(one, _checks(one, limits, results.metric)) for one in every]
    tier = min(one.tier for one in checked)
    if tier == 2:
        raise KtbenchError(_nearest_miss(results.metric, checked, device))
    inside = sorted((c for c in checked if c.tier <= tier), key=lambda c: c.candidate.order)
    first: dict[Contender, Checked] = {}
    for one in inside:
        first.setdefault(one.candidate.contender, one)
    chosen, *others = first.values()
    runner_up = others[0] if others else None
    size = _test_size(results)
    return Choice(
        name=results.lock.plan.name,
        metric=results.metric,
        limits=limits,
        device=device,
        file=chosen,
        file_test=_wilson(results, chosen.candidate, size),
        test_size=size,
        runner_up=runner_up,
        lead=_lead(chosen.candidate, runner_up),
        certainty=_certainty(results, [one.candidate for one in first.values()]),
        left_out=(*(_missed(c, results.metric) for c in checked if c.tier > tier), *left),
    )


def _nothing(results: Results, left: Sequence[LeftOut]) -> str:
    if not results.lock.plan.exports:
        return "its matrix has no exports: add some and run it again"
    return f"{left[0].what}: {left[0].reason}" if left else "run its matrix again"


# ---------------------------------------------------------------- limits


def _checks(candidate: Candidate, limits: Limits, metric: Metric) -> tuple[Check, ...]:
    checks = []
    if limits.p90_ms is not None and (latency := candidate.latency) is not None:
        asked, value, bound = limits.p90_ms, latency.p90_ms, latency.p90_high
        verdict = HELD if bound <= asked else BY_BOUND if value <= asked else MISSED
        checks.append(Check("p90", asked, value, bound, verdict, value / asked))
    if limits.bytes is not None:
        verdict = HELD if candidate.bytes <= limits.bytes else MISSED
        excess = candidate.bytes / limits.bytes
        checks.append(Check("size", limits.bytes, candidate.bytes, None, verdict, excess))
    if limits.figure is not None:
        checks.append(_quality_check(candidate.validation, limits.figure, metric))
    return tuple(checks)


def _quality_check(validation: stats.Interval, figure: float, metric: Metric) -> Check:
    """The metric's limit is asked of validation: by it a choice may be made."""
    asked, low = metric.quality(figure), validation.low
    if validation.mean < asked:
        verdict = MISSED
    else:
        verdict = HELD if low is not None and low >= asked else BY_BOUND
    bound = None if low is None else metric.quality(low)
    excess = 1 + (asked - validation.mean) / max(abs(figure), metric.step)
    return Check("accuracy", figure, metric.quality(validation.mean), bound, verdict, excess)


def _missed(checked: Checked, metric: Metric) -> LeftOut:
    worst = max((c for c in checked.checks), key=lambda c: (c.verdict != HELD, c.excess))
    kind = f"{worst.limit} limit {worst.verdict}"
    return LeftOut(checked.candidate.words, told(worst, metric), kind)


def _nearest_miss(metric: Metric, checked: Sequence[Checked], device: str | None) -> str:
    nearest = min(checked, key=lambda c: (c.excess, c.candidate.order))
    missed = [told(check, metric) for check in nearest.checks if check.verdict == MISSED]
    where = f" on {device}" if device else ""
    return (
        f"no file of {len(checked)} holds these limits{where}; the nearest is "
        f"{nearest.candidate.words}: {' and '.join(missed)}"
    )


# ---------------------------------------------------------------- how sure


def _lead(chosen: Candidate, runner_up: Checked | None) -> stats.Interval | None:
    if runner_up is None:
        return None
    return stats.paired_gain(chosen.test_by_seed, runner_up.candidate.test_by_seed)


def _certainty(results: Results, inside: Sequence[Candidate]) -> Certainty:
    """Judge the contenders within the limits, of which the first was chosen.

    A seed that a technique itself failed counts at chance level, as in every verdict.
    """
    if len(inside) == 1:
        return Certainty("the only one", 0)
    failures = _failures(results)
    seeds = sorted({s for one in inside for s in (*one.test_by_seed, *failures[one.contender])})
    table = [
        [{**failures[one.contender], **one.test_by_seed}.get(s, np.nan) for s in seeds]
        for one in inside
    ]
    failed = [bool(failures[one.contender]) for one in inside]
    chosen = stats.best_set(table, failed)
    may_be = tuple(one.contender for one, i in zip(inside, chosen.inside, strict=True) if i)
    standing: Standing = "may be best"
    if not chosen.judged[0]:
        standing = "not judged"
    elif not chosen.inside[0]:
        standing = "clearly worse"
    elif len(may_be) == 1:
        standing = "best"
    behind = float(chosen.behind[0])
    known = chosen.judged[0] and np.isfinite(behind)
    return Certainty(standing, len(inside) - 1, may_be, behind if known else None)


class _Failures(dict[Contender, dict[int, float]]):
    """Quality of the seeds that a technique itself failed, at chance level, by contender."""

    def __missing__(self, contender: Contender) -> dict[int, float]:
        return {}


def _failures(results: Results) -> _Failures:
    frame = results.contenders
    failures = _Failures()
    for row in frame[frame["failed"]].to_dict("records"):
        contender = Contender(row["student"], row["technique"], row["training"])
        failures.setdefault(contender, {})[int(row["seed"])] = float(row["accuracy"])
    return failures


def _test_size(results: Results) -> int | None:
    """Number of test samples, where the record tells it."""
    sizes = {cell.data.test_size for cell in results.lock.plan.cells}
    sizes |= {m.test_inputs or None for m in results.all_measurements}
    told_sizes = sizes - {None}
    return told_sizes.pop() if len(told_sizes) == 1 else None


def _wilson(results: Results, candidate: Candidate, size: int | None) -> tuple[float, float] | None:
    metric = results.metric
    is_share_of_samples = metric.digits is None and results.lock.classes is not None
    if size is None or not is_share_of_samples:
        return None
    share = metric.quality(candidate.own_test)
    low, high = stats.wilson(round(share * size), size)
    return float(low), float(high)
