"""Figure of the gain and cost of each window of the transfer, or use of a pool."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from ktbench.report import numbers, scores
from ktbench.report.document import Figure
from ktbench.report.figures.canvas import INK, LINES, drawing, rendered, wrapped

PANELS_SHOWN = 3


@dataclass(frozen=True)
class Way:
    """One way to use a teacher: FLOPs relative to the panel's reference, gain with its bounds."""

    label: str
    flops: float
    gain: float
    low: float
    high: float


@dataclass(frozen=True)
class Panel:
    """The ways of one student's transfer."""

    title: str
    ways: Sequence[Way]


def sweep_figure(panels: Sequence[Panel], *, name: str, caption: str, alternative: str) -> Figure:
    """Each way on a line of its own: gain over no transfer with its interval, FLOPs beside it."""
    shown = list(panels)[:PANELS_SHOWN]
    lines = [len(panel.ways) for panel in shown]
    with drawing(8.6, 0.5 + sum(0.65 + 0.28 * count for count in lines)) as figure:
        grid = figure.subplots(len(shown), 1, squeeze=False, sharex=True, height_ratios=lines)
        for axes, panel in zip(grid[:, 0], shown, strict=True):
            _panel(axes, panel)
        grid[-1][0].set_xlabel(f"gain over no transfer, {scores.unit()}", fontsize=8.5)
        return rendered(figure, name=name, caption=caption, alternative=alternative)


def _panel(axes: Axes, panel: Panel) -> None:
    axes.axvline(0.0, color=INK, linewidth=1.1, linestyle=(0, (4, 2)))
    for y, way in enumerate(panel.ways):
        color = LINES[y % len(LINES)]
        gain, low, high = (scores.metric().scale * v for v in (way.gain, way.low, way.high))
        if np.isfinite(low) and np.isfinite(high):
            axes.hlines(y, low, high, color=color, linewidth=2, alpha=0.6)
        axes.plot(gain, y, marker="o", color=color, markersize=6, linestyle="")
        words = f"{scores.gain(way.gain)} · {numbers.ratio(way.flops)} FLOPs"
        axes.text(1.02, y, words, transform=axes.get_yaxis_transform(), fontsize=8.5, va="center")
    axes.set_ylim(len(panel.ways) - 0.5, -0.5)
    axes.set_yticks(range(len(panel.ways)), [wrapped(way.label, 34, 1) for way in panel.ways])
    axes.set_title(wrapped(panel.title, 60, 1), loc="left", fontsize=10, weight="bold")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _signed(value)))
    axes.tick_params(labelsize=8.5, length=0)
    axes.grid(visible=False, axis="y")


def _signed(value: float) -> str:
    return f"{value:+g}".replace("-", "−") if value else "0"
