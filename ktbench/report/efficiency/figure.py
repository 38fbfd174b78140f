"""Quality against the cost of training, and the speedup over quality: a row of panels per student.

The left panel counts FLOPs, the right one seconds; each line bears its name at its end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, LogLocator, MaxNLocator, NullLocator

from ktbench import stats
from ktbench.report import scores
from ktbench.report.analysis import NO_TRANSFER
from ktbench.report.document import Figure
from ktbench.report.efficiency.frames import KINDS, Comparison
from ktbench.report.figures.canvas import (
    INK,
    LINES,
    MARKERS,
    drawing,
    rendered,
    score_axis,
    wrapped,
)
from ktbench.stats import speedup

STUDENTS_SHOWN, LINES_SHOWN = 3, 5

_UNITS = {
    "flops": (
        (1e18, "EFLOPs"),
        (1e15, "PFLOPs"),
        (1e12, "TFLOPs"),
        (1e9, "GFLOPs"),
        (1e6, "MFLOPs"),
    ),
    "seconds": ((3600.0, "hours"), (60.0, "minutes"), (1.0, "seconds")),
}
_NAMES_WIDTH = 0.55
"""Room beside a panel for the names of its lines, as a share of the panel's width."""
_LABEL_ROOM = 0.09
"""Least distance between two names beside a panel, as a share of its height."""


@dataclass(frozen=True)
class _Name:
    """A line's name, where the line ends, and its colour."""

    label: str
    x: float
    y: float
    color: str


Panel = Callable[[Axes, str, Sequence[Comparison]], list[_Name]]


def cost_figure(comparisons: Sequence[Comparison], *, name: str, caption: str) -> Figure:
    """Mean quality of every budget against its cost, bands from the lowest to the highest seed.

    Rings mark the Pareto front. The first comparison of a student is drawn again, dotted, with its
    teacher's training added.
    """
    what = f"Test {scores.word()} against the cost of training"
    return _figure(comparisons, _cost_panel, name=name, caption=caption, alternative=what)


def speedup_figure(comparisons: Sequence[Comparison], *, name: str, caption: str) -> Figure:
    """Speedup over quality with the band of its interval."""
    what = f"Speedup over no transfer against the test {scores.word()} to be reached"
    return _figure(comparisons, _speedup_panel, name=name, caption=caption, alternative=what)


def _figure(
    comparisons: Sequence[Comparison], panel: Panel, *, name: str, caption: str, alternative: str
) -> Figure:
    students = list(dict.fromkeys(one.student for one in comparisons))[:STUDENTS_SHOWN]
    with drawing(10.6, 0.3 + 3.1 * len(students)) as figure:
        widths = [1.0, _NAMES_WIDTH] * len(KINDS)
        grid = figure.subplots(len(students), len(widths), squeeze=False, width_ratios=widths)
        for row, student in zip(grid, students, strict=True):
            own = [one for one in comparisons if one.student == student][:LINES_SHOWN]
            for beside in row[1::2]:
                beside.set_axis_off()  # Room for the names.
            for axes, kind in zip(row[::2], KINDS, strict=True):
                names = panel(axes, kind, own)
                _beside(axes, names)
            row[0].set_title(wrapped(student, 60, 1), loc="left", fontsize=10, weight="bold")
        return rendered(
            figure,
            name=name,
            caption=caption,
            alternative=f"{alternative}, for {', '.join(students)}",
        )


# ---------------------------------------------------------------- panels


def _cost_panel(axes: Axes, kind: str, comparisons: Sequence[Comparison]) -> list[_Name]:
    unit, word = _unit(kind, float(max(one.treated[kind].cost.max() for one in comparisons)))
    longest = max(comparisons, key=lambda one: one.baseline[kind].quality.shape)
    sides = [(NO_TRANSFER, longest.baseline[kind], INK, "o")]
    sides += [
        (one.label, one.treated[kind], LINES[at % len(LINES)], MARKERS[(at + 1) % len(MARKERS)])
        for at, one in enumerate(comparisons)
    ]
    names, points = [], []
    for label, runs, color, marker in sides:
        cost, quality = _means(runs)
        style = (0, (4, 2)) if label == NO_TRANSFER else "-"
        axes.plot(cost / unit, quality, color=color, marker=marker, markersize=4, linestyle=style)
        spread = runs.quality[:, np.argsort(runs.cost.mean(axis=0), kind="stable")]
        axes.fill_between(
            cost / unit, spread.min(axis=0), spread.max(axis=0), color=color, alpha=0.12, lw=0
        )
        names.append(_Name(label, float(cost[-1] / unit), float(quality[-1]), color))
        points.append((cost / unit, quality))
    _rings(axes, points)
    names += _with_training(axes, comparisons[0], kind, unit)
    _log_cost(axes)
    axes.set_xlabel(f"training, {word} (log scale)", fontsize=8.5)
    axes.set_ylabel(f"test {scores.word()}", fontsize=8.5)
    score_axis(axes)
    return names


def _means(runs: speedup.Runs) -> tuple[stats.Floats, stats.Floats]:
    """Geometric mean of the cost and mean of the quality by budget, the cheapest first."""
    cost, quality = np.exp(np.log(runs.cost).mean(axis=0)), runs.quality.mean(axis=0)
    order = np.argsort(runs.cost.mean(axis=0), kind="stable")
    return cost[order], quality[order]


def _rings(axes: Axes, points: Sequence[tuple[stats.Floats, stats.Floats]]) -> None:
    cost, quality = (np.concatenate(values) for values in zip(*points, strict=True))
    front = stats.pareto_front(cost, quality)
    axes.scatter(
        cost[front], quality[front], s=70, facecolor="none", edgecolor=INK, lw=0.9, zorder=4
    )


def _with_training(axes: Axes, one: Comparison, kind: str, unit: float) -> list[_Name]:
    """The first line again, as if its student alone paid for the teacher."""
    if not one.training[kind] > 0:
        return []
    cost, quality = _means(one.treated[kind].plus(one.training[kind]))
    axes.plot(
        cost / unit, quality, color=LINES[0], linestyle=":", lw=1.2, marker=MARKERS[1], ms=3.5,
        markerfacecolor="white",
    )  # fmt: skip
    end = float(cost[-1] / unit), float(quality[-1])
    return [_Name("… and its teacher's training", *end, LINES[0])]


def _speedup_panel(axes: Axes, kind: str, comparisons: Sequence[Comparison]) -> list[_Name]:
    names = []
    drawn: list[stats.Floats] = []
    for at, one in enumerate(comparisons):
        baseline, treated = one.baseline[kind], one.treated[kind]
        q = speedup.qualities(baseline, treated)
        if not q.size:
            continue
        curve, color = speedup.speedup(baseline, treated, q), LINES[at % len(LINES)]
        axes.plot(q, curve.value, color=color)
        axes.fill_between(q, curve.low, curve.high, color=color, alpha=0.12, lw=0)
        knots = speedup.frontier(treated)[1]
        inside = knots[(knots >= q[0]) & (knots <= q[-1])]
        marks = speedup.speedup(baseline, treated, inside).value
        axes.plot(inside, marks, color=color, marker=MARKERS[(at + 1) % len(MARKERS)], ms=4, ls="")
        names.append(_Name(one.label, float(q[-1]), float(curve.value[-1]), color))
        drawn.append(curve.value)
    axes.axhline(1.0, color=INK, linewidth=1.1, linestyle=(0, (4, 2)))
    names.append(_Name(NO_TRANSFER, max((name.x for name in names), default=1.0), 1.0, INK))
    _ratio_axis(axes, drawn)
    axes.set_ylabel(f"speedup in {'FLOPs' if kind == 'flops' else kind} (log scale)", fontsize=8.5)
    axes.set_xlabel(f"test {scores.word()} to be reached", fontsize=8.5)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    score_axis(axes, "x")
    return names


# ---------------------------------------------------------------- axes and names


def _unit(kind: str, most: float) -> tuple[float, str]:
    """The largest unit of which the longest training has at least two."""
    units = _UNITS[kind]
    return next(((size, word) for size, word in units if most >= 2 * size), units[-1])


def _log_cost(axes: Axes) -> None:
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    subs = (1.0, 2.0, 5.0) if high / low < 300 else (1.0,)
    axes.xaxis.set_major_locator(LogLocator(subs=subs, numticks=12))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")


_RATIOS = (0.05, 0.1, 0.2, 0.33, 0.5, 0.7, 0.85, 1.0, 1.2, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0)


def _ratio_axis(axes: Axes, drawn: Sequence[stats.Floats]) -> None:
    """Scale the axis to the lines and 1; a band may leave the panel."""
    values = np.concatenate([*drawn, np.ones(1)])
    low, high = float(values.min()) / 1.3, float(values.max()) * 1.3
    axes.set_yscale("log")
    axes.set_ylim(low, high)
    axes.yaxis.set_major_locator(FixedLocator([r for r in _RATIOS if low <= r <= high]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}×")


def _beside(axes: Axes, names: Sequence[_Name]) -> None:
    """Names at the right of the panel, as near the ends of their lines as there is room for."""
    heights = [_height(axes, name.y) for name in names]
    order = sorted(range(len(names)), key=lambda at: heights[at])
    placed: dict[int, float] = {}
    least = 0.0
    for rank, at in enumerate(order):
        most = 1.0 - _LABEL_ROOM * (len(order) - 1 - rank)
        placed[at] = max(least, min(heights[at], most))
        least = placed[at] + _LABEL_ROOM
    for at, name in enumerate(names):
        place = (1.05, placed[at])
        axes.text(
            *place, wrapped(name.label, 20, 2), transform=axes.transAxes, fontsize=7.5,
            color=name.color, va="center", in_layout=False,
        )  # fmt: skip
        line = axes.annotate(
            "", (name.x, name.y), xytext=place, textcoords="axes fraction",
            arrowprops={"arrowstyle": "-", "color": name.color, "lw": 0.6, "alpha": 0.7},
        )  # fmt: skip
        line.set_in_layout(False)


def _height(axes: Axes, value: float) -> float:
    """Height of a value between the panel's bottom (0) and top (1)."""
    y = axes.transAxes.inverted().transform(axes.transData.transform((1.0, value)))[1]
    return float(min(max(y, 0.0), 1.0))
