"""A choice as lines for people and as JSON for programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from ktbench import stats
from ktbench.records import Metric
from ktbench.results.choice.choosing import Certainty, Checked, Choice
from ktbench.results.choice.limits import HELD, Check, amount
from ktbench.system.quantities import size_text

_LISTED = 4
"""Contenders that a line names, and examples that it gives."""


def lines(choice: Choice) -> list[str]:
    """Return the answer in lines: the file, its limits, its quality, how sure, what was left."""
    candidate, metric = choice.file.candidate, choice.metric
    where = f" on {choice.device}" if choice.device else ""
    return [
        f"{choice.name}{where}: take {candidate.words}",
        f"  file: {candidate.path} (seed {candidate.seed}, the best of {candidate.validation.n} "
        "on validation)",
        *(f"  {line}" for line in _facts(choice)),
        f"  {_test(choice)}",
        *(f"  {line}" for line in _runner_up(choice)),
        f"  {sureness(choice.certainty, metric)}",
        *(f"  left out: {line}" for line in _left(choice)),
    ]


def _facts(choice: Choice) -> Iterator[str]:
    checked = {check.limit: check for check in choice.file.checks}
    candidate, metric = choice.file.candidate, choice.metric
    if (latency := candidate.latency) is not None:
        told_p90 = (
            f"p90 {latency.p90_ms:.3g} ms, at most {latency.p90_high:.3g} ms "
            f"({latency.origin}, {latency.runtime}, 95 % interval)"
        )
        doubt = f"; doubtful: {latency.warnings}" if latency.warnings else ""
        yield f"{told_p90}{_held(checked.get('p90'), metric)}{doubt}"
    yield f"size {size_text(candidate.bytes)}{_held(checked.get('size'), metric)}"
    validation = _interval(candidate.validation, metric)
    yield f"validation {metric.word} {validation}{_held(checked.get('accuracy'), metric)}"


def _held(check: Check | None, metric: Metric) -> str:
    if check is None:
        return ""
    asked = amount(check, check.asked, metric)
    if check.verdict == HELD:
        return f": {'reaches' if check.limit == 'accuracy' else 'within'} {asked}"
    if check.bound is None:
        return f": reaches {asked}, but too few seeds give no bound"
    return f": misses {asked} by its bound only"


def _test(choice: Choice) -> str:
    candidate, metric = choice.file.candidate, choice.metric
    own = metric.written(metric.quality(candidate.own_test))
    if choice.file_test is not None:
        low, high = choice.file_test
        own += f" [{metric.bare(low)}, {metric.bare(high)}] of {choice.test_size:,} samples"
    figure = choice.limits.figure
    low_test = figure is not None and candidate.own_test < metric.quality(figure)
    missed = f", which misses {metric.written(figure)}" if low_test and figure is not None else ""
    over = _interval(candidate.test, metric)
    return f"test {metric.word} {own}{missed}; over seeds {over}"


def _interval(interval: stats.Interval, metric: Metric) -> str:
    """`92.4 % [91.8, 93.0] (n = 5)` of qualities."""
    mean = metric.written(metric.quality(interval.mean))
    if interval.low is None or interval.high is None:
        return f"{mean} (n = {interval.n})"
    ends = sorted(metric.quality(end) for end in (interval.low, interval.high))
    bounds = ", ".join(metric.bare(_possible(end, metric)) for end in ends)
    return f"{mean} [{bounds}] (n = {interval.n})"


def _possible(figure: float, metric: Metric) -> float:
    low = figure if metric.low is None else max(figure, metric.low)
    return low if metric.high is None else min(low, metric.high)


def _runner_up(choice: Choice) -> Iterator[str]:
    if choice.runner_up is None:
        return
    other, metric = choice.runner_up.candidate, choice.metric
    latency = f", p90 {other.latency.p90_ms:.3g} ms" if other.latency else ""
    figures = f"{_interval(other.test, metric)} on the test set{latency}, {size_text(other.bytes)}"
    yield f"runner-up: {other.words}: {figures}"
    if (lead := choice.lead) is not None:
        bounds = ""
        if lead.low is not None and lead.high is not None:
            bounds = f" [{metric.difference(lead.low)}, {metric.difference(lead.high)}]"
        yield (
            f"ahead of it by {metric.difference(lead.mean)} {metric.unit}{bounds} on the test set, "
            f"over {lead.n} shared seeds"
        )


def sureness(certainty: Certainty, metric: Metric) -> str:
    """Say how sure the choice is."""
    level = f"{100 * certainty.level:.0f} %"
    if certainty.standing == "the only one":
        return "how sure: no other student or technique is within the limits"
    if certainty.standing == "not judged":
        return (
            f"how sure: not judged against {certainty.rivals} others within the limits: that takes "
            f"{stats.LEAST_SEEDS} seeds that differ"
        )
    if certainty.standing == "best":
        return (
            f"how sure: all {certainty.rivals} others within the limits are clearly worse ({level})"
        )
    names = [contender.words for contender in certainty.may_be_best]
    shown = ", ".join(names[:_LISTED]) + (
        f" and {len(names) - _LISTED} more" * (len(names) > _LISTED)
    )
    if certainty.standing == "clearly worse":
        return (
            f"how sure: doubtful: on the test set it is clearly worse than the best, which is one "
            f"of {shown} ({level})"
        )
    behind = ""
    if certainty.behind is not None:
        behind = f"; it is at most {metric.difference(certainty.behind).lstrip('+')} {metric.unit} "
        behind += "behind the best"
    return f"how sure: the best is one of {len(names)}: {shown}{behind} ({level})"


def _left(choice: Choice) -> Iterator[str]:
    """Count what was left out by reason, with an example of each."""
    for kind, count in Counter(one.kind for one in choice.left_out).items():
        example = next(one for one in choice.left_out if one.kind == kind)
        yield f"{count} × {kind}, such as {example.what}: {example.reason}"


# ---------------------------------------------------------------- JSON


def as_json(choice: Choice) -> dict[str, Any]:
    """Return the whole answer as plain values; figures are the metric's own."""
    metric, certainty = choice.metric, choice.certainty
    lead = choice.lead
    return {
        "matrix": choice.name,
        "device": choice.device,
        "metric": metric.name,
        "better": metric.better,
        "limits": {
            "p90_ms": choice.limits.p90_ms,
            "bytes": choice.limits.bytes,
            "figure": choice.limits.figure,
        },
        "file": _checked_json(choice.file, metric)
        | {"test_samples": choice.test_size, "file_test_interval": choice.file_test},
        "runner_up": None if choice.runner_up is None else _checked_json(choice.runner_up, metric),
        "ahead": None
        if lead is None
        else {"quality": lead.mean, "low": lead.low, "high": lead.high, "n": lead.n},
        "certainty": {
            "standing": certainty.standing,
            "level": certainty.level,
            "rivals": certainty.rivals,
            "may_be_best": [vars(contender) for contender in certainty.may_be_best],
            "at_most_behind": certainty.behind,
        },
        "left_out": [{"what": one.what, "reason": one.reason} for one in choice.left_out],
    }


def _checked_json(checked: Checked, metric: Metric) -> dict[str, Any]:
    candidate = checked.candidate
    return {
        **vars(candidate.contender),
        "export": candidate.export,
        "key": candidate.key,
        "seed": candidate.seed,
        "path": candidate.path,
        "bytes": candidate.bytes,
        "latency": None if candidate.latency is None else vars(candidate.latency),
        "validation": _interval_json(candidate.validation, metric),
        "test": _interval_json(candidate.test, metric),
        "file_validation": metric.quality(candidate.own_validation),
        "file_test": metric.quality(candidate.own_test),
        "limits": [
            {k: v for k, v in vars(check).items() if k != "excess"} for check in checked.checks
        ],
    }


def _interval_json(interval: stats.Interval, metric: Metric) -> dict[str, Any]:
    ends = (interval.low, interval.high)
    bounds = sorted(metric.quality(end) for end in ends if end is not None)
    low, high = bounds if len(bounds) == 2 else (None, None)
    mean = metric.quality(interval.mean)
    return {"mean": mean, "low": low, "high": high, "n": interval.n}
