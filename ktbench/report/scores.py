"""Words and figures of the metric that a page is about, the same everywhere in the report.

Frames hold qualities, of which more is better (`Results.cells`); a page shows the metric's own
figures. A page is of one results folder, so of one metric: `of` says which, for as long as the page
is built.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from ktbench.records import ACCURACY, Metric
from ktbench.report.numbers import NOTHING, known

_METRIC: ContextVar[Metric] = ContextVar("metric", default=ACCURACY)


@contextmanager
def of(metric: Metric) -> Iterator[None]:
    """Write figures and words of this metric within the block."""
    token = _METRIC.set(metric)
    try:
        yield
    finally:
        _METRIC.reset(token)


def metric() -> Metric:
    """The metric that the page is about."""
    return _METRIC.get()


def word() -> str:
    """`accuracy`."""
    return metric().word


def words() -> str:
    """`accuracies`."""
    return metric().words


def titles() -> str:
    """`Accuracies`."""
    return words()[:1].upper() + words()[1:]


def title() -> str:
    """`Accuracy`."""
    return metric().title


def unit() -> str:
    """`points`: the unit of a gain."""
    return metric().unit


def figure(quality: object) -> str:
    """`92.4 %` of a quality."""
    return metric().written(_figure(quality)) if known(quality) else NOTHING


def figure_interval(quality: object, low: object, high: object) -> str:
    """`92.4 % [91.8, 93.0]` of a quality, without bounds where there are none."""
    if not (known(low) and known(high)):
        return figure(quality)
    bounds = [metric().bare(_possible(end)) for end in sorted((_figure(low), _figure(high)))]
    return f"{figure(quality)} [{', '.join(bounds)}]"


def gain(difference: object) -> str:
    """`+2.1` points of a difference of qualities, always with its sign: above 0 is better."""
    return metric().difference(_number(difference)) if known(difference) else NOTHING


def gain_interval(low: object, high: object) -> str:
    """`[+1.0, +3.2]`, empty without bounds."""
    return f"[{gain(low)}, {gain(high)}]" if known(low) and known(high) else ""


def small() -> str:
    """`1 point`: the difference that hardly counts (`Metric.step`)."""
    one = metric()
    if one.digits is None:
        return f"{100 * one.step:.0f} point"
    return f"{one.step:g} of {one.word}"


def smallest_gain() -> str:
    """`0.5 points`: half of `small`, within which a gain is not worth more seeds."""
    return f"{metric().scale * metric().step / 2:g} {unit()}"


def in_unit(joined: str = ", in ") -> str:
    """`, in points`; empty where the metric's own word is the unit, which a text has said."""
    return f"{joined}{unit()}" if unit() != word() else ""


def full_unit() -> str:
    """`points of test accuracy`."""
    return f"points of test {word()}" if metric().digits is None else f"test {word()}"


def judged_by() -> str:
    """Name of the metric, and which way is better where that is less."""
    if metric().better == "more":
        return metric().name
    return f"{metric().name}; less is better, and tables/*.csv have it with the opposite sign"


def possible(low: float, high: float) -> tuple[float, float]:
    """Bounds of qualities, no further than there can be figures."""
    one = metric()
    least, most = sorted(
        one.quality(bound if bound is not None else far)
        for bound, far in ((one.low, -math.inf), (one.high, math.inf))
    )
    return max(low, least), min(high, most)


def direction() -> str:
    """Sentence on the signs of gains, where less of the metric is better; else empty."""
    one = metric()
    if one.better == "more":
        return ""
    return f" Less {one.word} is better: a gain above 0 is {one.word} that a technique saves."


def _figure(quality: object) -> float:
    return metric().quality(_number(quality))


def _possible(figure: float) -> float:
    """The nearest figure that there can be: an interval may reach beyond."""
    one = metric()
    low = figure if one.low is None else max(figure, one.low)
    return low if one.high is None else min(low, one.high)


def _number(value: object) -> float:
    return float(value)  # type: ignore[arg-type]
