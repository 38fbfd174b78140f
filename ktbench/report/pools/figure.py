"""Batches answered over time, with workers that joined and were lost: one panel per pool."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from ktbench.report.document import Figure
from ktbench.report.figures.canvas import GAIN, INK, LOSS, MUTED, drawing, rendered, wrapped

POOLS_SHOWN = 4
_BINS = 180
"""Most points of a line: longer runs are averaged over more seconds."""


@dataclass(frozen=True)
class Timeline:
    """History of a pool; times in seconds since its start."""

    title: str
    seconds: float
    answers: NDArray[np.float64]
    """Batches delivered in each second."""
    workers: Sequence[tuple[float, int]]
    """Pairs of a second and the number of workers from then on."""
    joins: Sequence[float]
    losses: Sequence[float]


def timeline_figure(pools: Sequence[Timeline], *, name: str, caption: str) -> Figure:
    """Throughput as a line with joins and losses marked on it; below it, how many workers."""
    shown = list(pools)[:POOLS_SHOWN]
    with drawing(8.6, 0.5 + 3.0 * len(shown)) as figure:
        ratios = [3.0, 1.0] * len(shown)
        grid: Any = figure.subplots(
            2 * len(shown), 1, squeeze=False, gridspec_kw={"height_ratios": ratios}
        )
        for number, pool in enumerate(shown):
            above, below = grid[2 * number, 0], grid[2 * number + 1, 0]
            _throughput(above, pool)
            _present(below, pool)
            above.sharex(below)
            above.tick_params(labelbottom=False)
        handles, labels = grid[0, 0].get_legend_handles_labels()
        figure.legend(
            handles, labels, loc="outside upper left", ncols=3, frameon=False, fontsize=8.5
        )
        return rendered(
            figure,
            name=name,
            caption=caption,
            alternative="Batches answered per second over time, with joins and losses of workers",
        )


def _throughput(axes: Axes, pool: Timeline) -> None:
    width = max(1, math.ceil(len(pool.answers) / _BINS))
    whole = len(pool.answers) // width * width
    rates = pool.answers[:whole].reshape(-1, width).mean(axis=1)
    edges = np.arange(len(rates) + 1) * float(width)
    axes.stairs(rates, edges, color=INK, linewidth=1.3, label="batches per second")
    top = float(rates.max()) if len(rates) else 1.0
    for times, height, marker, color, label in (
        (pool.joins, 1.06, "^", GAIN, "a worker joined"),
        (pool.losses, 1.16, "X", LOSS, "a worker was lost"),
    ):
        level = np.full(len(times), height * max(top, 1e-9))
        axes.scatter(times, level, marker=marker, color=color, s=26, label=label, linewidths=0)
    axes.set_ylim(0, 1.25 * max(top, 1e-9))
    axes.set_title(wrapped(pool.title, 90, 1), loc="left", fontsize=10, weight="bold")
    axes.set_ylabel("batches / s", fontsize=8.5)


def _present(axes: Axes, pool: Timeline) -> None:
    times = [0.0, *(second for second, _ in pool.workers), pool.seconds]
    counts = [0, *(count for _, count in pool.workers)]
    edges = np.maximum.accumulate(times)
    axes.stairs(counts, edges, color=MUTED, fill=True, alpha=0.35)
    axes.set_ylim(0, max(counts) * 1.15 + 0.1)
    axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    axes.set_xlim(0, max(pool.seconds, 1.0))
    axes.set_ylabel("workers", fontsize=8.5)
    axes.set_xlabel("seconds since the pool was opened", fontsize=8.5)
