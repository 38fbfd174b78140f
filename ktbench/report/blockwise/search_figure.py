"""Figure of a search over blocks: accuracy against cost, beside one replacement everywhere."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes

from ktbench.report.document import Figure
from ktbench.report.figures.canvas import (
    LINES,
    MARKERS,
    MUTED,
    drawing,
    percent_axis,
    rendered,
    wrapped,
)

UNIFORM_SHOWN = 6


def search_figure(
    networks: pd.DataFrame,
    panels: Sequence[tuple[str, str]],
    teacher: float,
    *,
    axis: str,
    name: str,
    caption: str,
) -> Figure:
    """`found`: kind (searched, uniform), name, share of the teacher's cost, and accuracies.

    A panel is a column of accuracies and its title; `teacher` is the teacher's own test accuracy.
    """
    with drawing(10.6, 3.9) as figure:
        axes = figure.subplots(1, len(panels), squeeze=False, sharex=True)[0]
        for each, (column, title) in zip(axes, panels, strict=True):
            _panel(each, networks, column)
            each.axhline(teacher, color=MUTED, linewidth=0.9, linestyle=":")
            each.set_ylabel(title)
            each.set_xlabel(axis)
            percent_axis(each)
            percent_axis(each, "x")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(
            handles, labels, loc="outside upper left", ncols=4, frameon=False, fontsize=8.5
        )
        return rendered(
            figure,
            name=name,
            caption=caption,
            alternative=f"Accuracy against {axis} of searched networks and of one replacement "
            "everywhere; the figures are in the table below",
        )


def _panel(axes: Axes, networks: pd.DataFrame, column: str) -> None:
    known = networks[networks[column].notna()]
    searched = known[known["kind"] == "searched"].sort_values("share")
    axes.plot(
        searched["share"],
        searched[column],
        color=LINES[0],
        marker=MARKERS[0],
        markersize=5,
        linewidth=1.2,
        label="searched",
        zorder=3,
    )
    uniform = known[known["kind"] == "uniform"].head(UNIFORM_SHOWN)
    for number, (name, share, value) in enumerate(
        zip(uniform["name"], uniform["share"], uniform[column], strict=True), start=1
    ):
        axes.scatter(
            [share],
            [value],
            s=46,
            color=LINES[number % len(LINES)],
            marker=MARKERS[number % len(MARKERS)],
            label=wrapped(f"{name} everywhere", 34, 1),
            zorder=4,
        )
