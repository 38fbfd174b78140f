"""Results at a glance: one line and a small table, as they are shown when they are printed."""

from __future__ import annotations

from typing import Protocol

import pandas as pd

from ktbench import stats
from ktbench.records import Metric
from ktbench.results.lock import Lock

_SHOWN = 24
"""Rows of a printed table."""


class Summarised(Protocol):
    """The part of `Results` that a summary is made of."""

    @property
    def lock(self) -> Lock:
        """The matrix."""

    @property
    def metric(self) -> Metric:
        """The metric of all cells."""

    @property
    def cells(self) -> pd.DataFrame:
        """One row per cell."""

    @property
    def contenders(self) -> pd.DataFrame:
        """One row per cell, with its technique."""

    @property
    def all_measurements(self) -> tuple[object, ...]:
        """Measurements."""

    @property
    def summary(self) -> pd.DataFrame:
        """The table."""


def headline(results: Summarised) -> str:
    """`hpdc18-small: 160 cells (160 done), 16 measurements`."""
    states = results.cells["status"].value_counts()
    counted = ", ".join(f"{count} {state}" for state, count in states.items())
    return (
        f"{results.lock.plan.name}: {len(results.cells)} cells ({counted or 'none'}), "
        f"{len(results.all_measurements)} measurements"
    )


def table(results: Summarised) -> pd.DataFrame:
    """One row per student and technique, in the matrix's order.

    `seeds`: trained ones; `failed`: those that the technique itself ended; the metric's mean over
    the trained ones on the test set, in words with its interval. For figures take `Results.cells`.
    """
    frame = results.contenders
    cells = results.cells.set_index("key")["accuracy"]
    word = f"test {results.metric.word}"
    rows = []
    for (student, training, technique), own in frame.groupby(
        ["student", "training", "technique"], sort=False
    ):
        trained = cells.loc[own["key"]].dropna().to_numpy(dtype=float)
        rows.append(
            {
                "student": student,
                "technique": technique,
                "training": training,
                "seeds": len(trained),
                "failed": int(own["failed"].sum()),
                word: _interval(trained, results.metric),
            }
        )
    shown = pd.DataFrame(
        rows, columns=["student", "technique", "training", "seeds", "failed", word]
    )
    for name, nothing in (("training", ""), ("failed", 0)):
        if (shown[name] == nothing).all():
            del shown[name]
    return shown


def text(results: Summarised) -> str:
    """Return the line and the table, without its middle where it is long."""
    shown = results.summary
    body = shown.to_string(index=False, max_rows=_SHOWN, max_colwidth=60)
    return f"{headline(results)}\n{body if len(shown) else 'no cells'}"


def _interval(values: stats.Floats, metric: Metric) -> str:
    if not len(values):
        return "–"
    interval = stats.interval(values)
    mean = metric.written(metric.quality(interval.mean))
    if interval.low is None or interval.high is None:
        return mean
    ends = sorted(metric.quality(end) for end in (interval.low, interval.high))
    return f"{mean} [{metric.bare(ends[0])}, {metric.bare(ends[1])}]"
