"""Accuracy against a cost of deployment, with the Pareto front numbered."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from ktbench.report import scores
from ktbench.report.document import Figure
from ktbench.report.doubt import MARK
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
from ktbench.stats import Floats

POINTS_SHOWN = 2000


@dataclass(frozen=True)
class Axis:
    """The horizontal axis: a column, its title and how its ticks are written."""

    column: str
    title: str
    unit: float
    """Divisor of the column for the axis."""


LATENCY = Axis("p50_ms", "median latency, ms", 1.0)
SIZE = Axis("bytes", "artifact size, kB", 1e3)


def front_figure(
    deployments: pd.DataFrame,
    *,
    axis: Axis,
    name: str,
    caption: str,
    students: Sequence[str],
    exports: Sequence[str],
) -> Figure:
    """Scatter accuracy against a cost, the Pareto front numbered.

    `deployments`: student, export, accuracy, front (number on the front or 0), the axis's column.
    Colour is the export, shape the student; the front's points carry their numbers. Points whose
    latency is `doubtful` are hollow, their numbers marked.
    """
    shown = pd.concat(
        [deployments[deployments["front"] > 0], deployments[deployments["front"] == 0]]
    ).head(POINTS_SHOWN)
    with drawing(10.6, 4.6) as figure:
        axes = figure.subplots()
        shape = shown["student"].map(dict(zip(students, itertools.cycle(MARKERS), strict=False)))
        doubtful = shown["doubtful"] if axis is LATENCY else pd.Series(False, shown.index)
        kinds = shown.groupby([shape, shown["export"], doubtful], sort=False)
        for (marker, export, hollow), points in kinds:
            colour = _colour(exports, str(export))
            axes.scatter(
                points[axis.column] / axis.unit,
                points["accuracy"],
                s=38,
                facecolor="none" if hollow else colour,
                edgecolor=colour if hollow else "none",
                marker=str(marker),
                alpha=0.65,
                linewidth=1.2 if hollow else 0,
                zorder=3,
                in_layout=False,
            )
        _front(axes, shown[shown["front"] > 0], axis, doubtful)
        _axes(axes, axis)
        _legend(axes, students, exports, doubtful=bool(doubtful.any()))
        return rendered(
            figure,
            name=name,
            caption=caption,
            alternative=f"Test {scores.word()} against {axis.title}; the Pareto front's points are "
            "listed in the table below",
        )


def _colour(exports: Sequence[str], export: str) -> str:
    return LINES[list(exports).index(export) % len(LINES)]


def _marker(students: Sequence[str], student: str) -> str:
    return MARKERS[list(students).index(student) % len(MARKERS)]


def _front(axes: Axes, front: pd.DataFrame, axis: Axis, doubtful: pd.Series[bool]) -> None:
    front = front.sort_values("front")
    marks = [MARK * bool(doubtful[at]) for at in front.index]
    labels = [f"{number}{mark}" for number, mark in zip(front["front"], marks, strict=True)]
    x = (front[axis.column] / axis.unit).to_numpy(dtype=float)
    y = front["accuracy"].to_numpy(dtype=float)
    axes.step(x, y, where="post", color=INK, linewidth=1.0, zorder=2)
    axes.scatter(x, y, s=80, facecolor="none", edgecolor=INK, linewidth=1.1, zorder=4)
    for numbers, at_x, at_y in _merged(labels, x, y):
        axes.annotate(
            numbers,
            (at_x, at_y),
            xytext=(-7, 6),
            textcoords="offset points",
            ha="right",
            fontsize=8.5,
            weight="bold",
            zorder=5,
            in_layout=False,
        )


def _merged(numbers: list[str], x: Floats, y: Floats) -> list[tuple[str, float, float]]:
    """One label for points that would be drawn on top of each other: `2, 3`."""
    if not numbers:
        return []
    width = max(float(np.log(x.max() / x.min())), 1e-9)
    height = max(float(y.max() - y.min()), 1e-9)
    labels: list[tuple[str, float, float]] = []
    for number, at_x, at_y in zip(numbers, x, y, strict=True):
        if labels:
            text_before, x_before, y_before = labels[-1]
            near = np.log(at_x / x_before) < 0.025 * width and at_y - y_before < 0.03 * height
            if near:
                labels[-1] = (f"{text_before}, {number}", x_before, y_before)
                continue
        labels.append((number, float(at_x), float(at_y)))
    return labels


def _axes(axes: Axes, axis: Axis) -> None:
    axes.set_xscale("log")
    axes.margins(x=0.08, y=0.12)
    low, high = axes.get_xlim()
    decades = np.log10(high / low)
    if decades < 0.7:
        axes.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 2.5, 5, 10]))
    else:
        subs = (1.0, 2.0, 5.0) if decades < 2.5 else (1.0,)
        axes.xaxis.set_major_locator(LogLocator(subs=subs, numticks=20))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(f"{axis.title} (log scale)")
    axes.set_ylabel(f"test {scores.word()}")
    score_axis(axes)


def _legend(axes: Axes, students: Sequence[str], exports: Sequence[str], *, doubtful: bool) -> None:
    def dot(marker: str, color: str, label: str) -> Line2D:
        look = {"marker": marker, "color": color, "label": wrapped(label, 26, 2)}
        return Line2D([], [], linestyle="none", markersize=6, **look)  # type: ignore[arg-type]

    handles = [dot("o", _colour(exports, e), e) for e in list(exports)[:8]]
    handles += [dot(_marker(students, s), MUTED, s) for s in list(students)[:8]]
    handles.append(Line2D([], [], color=INK, linewidth=1, label="Pareto front"))
    if doubtful:
        hollow = dot("o", MUTED, f"{MARK} hollow: doubtful")
        hollow.set_markerfacecolor("none")
        handles.append(hollow)
    axes.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, fontsize=8
    )
