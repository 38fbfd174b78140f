"""Figure of the loss of each block's replacement along the network: one line per student."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.ticker import LogLocator, NullLocator

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

STUDENTS_SHOWN = 8


@dataclass(frozen=True)
class BlockLine:
    """A student's blocks in the network's order."""

    student: str
    loss: Sequence[float]
    """Normalised: 1 is the best constant."""
    lost: Sequence[float]
    """Validation accuracy that the teacher loses with this block alone replaced."""
    used: Sequence[bool]


def block_figure(lines: Sequence[BlockLine], *, name: str, caption: str) -> Figure:
    """Normalised loss (left) and accuracy lost (right) by block; hollow where it is not used."""
    shown = list(lines)[:STUDENTS_SHOWN]
    with drawing(10.6, 3.9) as figure:
        left, right = figure.subplots(1, 2)
        for line, color, marker in zip(shown, LINES, MARKERS, strict=False):
            numbers = range(1, len(line.loss) + 1)
            for axes, values in ((left, line.loss), (right, line.lost)):
                axes.plot(numbers, values, color=color, linewidth=1.2, zorder=2)
                faces = [color if used else "white" for used in line.used]
                axes.scatter(
                    numbers, values, s=30, c=faces, edgecolors=color, marker=marker, zorder=3
                )
            left.plot([], [], color=color, marker=marker, label=wrapped(line.student, 40, 2))
        left.axhline(1.0, color=MUTED, linewidth=0.9, linestyle=":")
        left.set_yscale("log")
        left.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=20))
        left.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        left.yaxis.set_minor_locator(NullLocator())
        left.set_ylabel("normalised loss (log scale)")
        right.axhline(0.0, color=MUTED, linewidth=0.9, linestyle=":")
        right.set_ylabel("validation accuracy lost")
        percent_axis(right)
        for axes in (left, right):
            axes.set_xlabel("block, in the network's order")
            axes.xaxis.get_major_locator().set_params(integer=True)
        handles, labels = left.get_legend_handles_labels()
        figure.legend(
            handles, labels, loc="outside upper left", ncols=2, frameon=False, fontsize=8.5
        )
        return rendered(
            figure,
            name=name,
            caption=caption,
            alternative="Normalised loss of each block's replacement and the accuracy that the "
            "teacher loses with it; the figures are in the table below",
        )
