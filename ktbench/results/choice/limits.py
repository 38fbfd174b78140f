"""Limits of a deployment: latency, size and quality, as people write them."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

from ktbench.records import KtbenchError, Metric
from ktbench.system.quantities import bytes_of, size_text

Verdict = Literal["held", "missed by its bound only", "missed"]
HELD: Verdict = "held"
BY_BOUND: Verdict = "missed by its bound only"
MISSED: Verdict = "missed"

_MS = {"us": 1e-3, "µs": 1e-3, "μs": 1e-3, "ms": 1.0, "s": 1e3}
_TIME = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([uµμm]?s)\s*")
_SHARE = re.compile(r"\s*([-+]?(?:\d+(?:\.\d*)?|\.\d+))\s*%?\s*")


@dataclass(frozen=True)
class Limits:
    """Limits of a file's size and latency, and its least quality; None where anything goes."""

    p90_ms: float | None = None
    """Most milliseconds of one inference at the 90th percentile."""
    bytes: int | None = None
    """Most bytes of the file."""
    figure: float | None = None
    """Figure of the metric that must be reached, for accuracy a share: 0.85."""


@dataclass(frozen=True)
class Check:
    """One limit beside a file's figure."""

    limit: Literal["p90", "size", "accuracy"]
    asked: float
    value: float
    bound: float | None
    """End of the figure's interval that counts against it; None where there is no interval."""
    verdict: Verdict
    excess: float
    """Value over limit, or the reverse where the limit is a least; above 1 it is missed."""


def limits_of(
    metric: Metric,
    p90: str | float | None = None,
    size: str | int | None = None,
    accuracy: str | float | None = None,
) -> Limits:
    """Read limits: `8ms` (a number is milliseconds), `500kB` (bytes), `85` (percent of a share).

    Raises KtbenchError for anything that is no such limit.
    """
    return Limits(
        None if p90 is None else _milliseconds(p90),
        None if size is None else _bytes(size),
        None if accuracy is None else _figure(accuracy, metric),
    )


def _milliseconds(given: str | float) -> float:
    if isinstance(given, str):
        match = _TIME.fullmatch(given)
        value = float(match[1]) * _MS[match[2]] if match else math.nan
    else:
        value = float(given)
    if not (math.isfinite(value) and value > 0):
        raise KtbenchError(f"--p90 {given}: must be a time such as 8ms, 0.5s or 800us")
    return value


def _bytes(given: str | int) -> int:
    size = bytes_of(given) if isinstance(given, str) else int(given)
    if size is None or size <= 0:
        raise KtbenchError(f"--size {given}: must be a size such as 500kB, 1.5MB or 64KiB")
    return size


def _figure(given: str | float, metric: Metric) -> float:
    match = _SHARE.fullmatch(str(given))
    example = "85 for 85 %" if metric.scale == 100 else f"0.5 of {metric.word}"
    if match is None:
        raise KtbenchError(f"--accuracy {given}: must be a number such as {example}")
    figure = float(match[1]) / metric.scale
    if (reason := metric.objection(figure)) is not None:
        raise KtbenchError(f"--accuracy {given}: {metric.word} {reason}: write {example}")
    if metric.scale == 100 and 0 < figure < 0.01:
        raise KtbenchError(f"--accuracy {given}: is less than 1 %: write {example}")
    return figure


# ---------------------------------------------------------------- in words


def amount(check: Check, value: float, metric: Metric) -> str:
    """Write a limit's figure in its unit."""
    if check.limit == "p90":
        return f"{value:.3g} ms"
    return size_text(value) if check.limit == "size" else metric.written(value)


def told(check: Check, metric: Metric) -> str:
    """`p90 8.4 ms (bound 8.6 ms) is above 8 ms`: a limit that is not held, in words."""
    above = "below" if check.limit == "accuracy" and metric.better == "more" else "above"
    bound = "" if check.bound is None else f" (bound {amount(check, check.bound, metric)})"
    word = "validation " + metric.word if check.limit == "accuracy" else check.limit
    value, asked = (amount(check, each, metric) for each in (check.value, check.asked))
    if check.verdict == MISSED:
        return f"{word} {value}{bound} is {above} {asked}"
    why = "by its bound only" if check.bound is not None else "for want of a bound: too few seeds"
    return f"{word} {value}{bound} misses {asked} {why}"
