"""Validation accuracy against epochs: one panel per student, one line per method."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from ktbench.report import scores
from ktbench.report.analysis import NO_TRANSFER
from ktbench.report.document import Figure
from ktbench.report.figures.canvas import (
    INK,
    LINES,
    MARKERS,
    MUTED,
    drawing,
    rendered,
    score_axis,
    wrapped,
)

STUDENTS_SHOWN, METHODS_SHOWN = 6, 7
_LABEL = (34, 1)
"""Wrapping of a line's name in the legend: width and lines."""


def convergence_figure(
    curves: pd.DataFrame,
    *,
    name: str,
    caption: str,
    students: Sequence[str],
    methods: Sequence[str],
) -> Figure:
    """Mean over seeds with a band from the lowest to the highest; no transfer is dashed.

    `curves`: student, label, seed, epoch, validation_accuracy; `methods`: labels to draw.
    """
    shown = list(students)[:STUDENTS_SHOWN]
    columns = 2 if len(shown) == 4 else min(3, max(1, len(shown)))
    rows = max(1, math.ceil(len(shown) / columns))
    width = 0.4 + columns * {1: 5.1, 2: 4.6}.get(columns, 3.55)
    labels = [wrapped(label, *_LABEL) for label in (NO_TRANSFER, *methods)]
    beside = _legend_columns(width, labels)
    with drawing(width, 0.55 + 0.17 * math.ceil(len(labels) / beside) + 2.6 * rows) as figure:
        grid = figure.subplots(rows, columns, squeeze=False)
        panels = list(grid.flat)
        for axes, student in zip(panels, shown, strict=False):
            _panel(axes, student, curves[curves["student"] == student], methods)
        for axes in panels[len(shown) :]:
            axes.set_visible(False)
        for axes in grid[:, 0]:
            axes.set_ylabel(f"validation {scores.word()}", fontsize=8.5)
        handles: dict[str, Artist] = {}
        for axes in panels:
            for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
                handles.setdefault(label, handle)
        figure.legend(
            list(handles.values()),
            list(handles),
            loc="outside upper left",
            ncols=min(beside, max(1, len(handles))),
            frameon=False,
            fontsize=8.5,
        )
        return rendered(
            figure,
            name=name,
            caption=caption,
            alternative=f"Validation {scores.word()} against epochs for {', '.join(shown)}",
        )


def _legend_columns(width: float, labels: Sequence[str]) -> int:
    """Number of legend columns that fit a width in inches, four at most."""
    longest = max((len(label) for label in labels), default=1)
    return max(1, min(4, len(labels), int(width / (0.45 + 0.06 * longest))))


def _panel(axes: Axes, student: str, curves: pd.DataFrame, methods: Sequence[str]) -> None:
    lows: list[float] = []
    for number, label in enumerate([NO_TRANSFER, *methods]):
        own = curves[curves["label"] == label]
        if own.empty:
            continue
        is_baseline = label == NO_TRANSFER
        by_epoch = own.groupby("epoch")["validation_accuracy"]
        mean, low, high = by_epoch.mean(), by_epoch.min(), by_epoch.max()
        epochs = mean.index.to_numpy()
        color = INK if is_baseline else LINES[(number - 1) % len(LINES)]
        style = {"color": color, "linewidth": 1.6, "zorder": 4 if is_baseline else 3}
        if is_baseline:
            style["linestyle"] = (0, (4, 2))
            axes.axhline(float(mean.iloc[-1]), color=MUTED, linewidth=0.8, linestyle=":", zorder=2)
        else:
            style |= {"marker": MARKERS[(number - 1) % len(MARKERS)], "markersize": 3.5}
            style["markevery"] = max(1, len(epochs) // 8)
        axes.plot(epochs, mean.to_numpy(), label=wrapped(label, *_LABEL), **style)  # type: ignore[arg-type]
        axes.fill_between(epochs, low, high, color=color, alpha=0.13, linewidth=0)
        late = mean[epochs > epochs.max() * 0.15]
        lows.append(float((late if len(late) else mean).min()))
    axes.set_title(wrapped(student, 28, 2), loc="left", fontsize=10, weight="bold")
    axes.set_xlabel("epoch", fontsize=8.5)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    if lows:
        top = axes.get_ylim()[1]
        axes.set_ylim(*scores.possible(float(np.min(lows)) - 2 * scores.metric().step, top))
    score_axis(axes)
