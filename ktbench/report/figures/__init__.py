"""The report's drawings; each function returns a `Figure` in SVG and PNG."""

from ktbench.report.blockwise.figure import BlockLine, block_figure
from ktbench.report.figures.curves import convergence_figure
from ktbench.report.figures.heatmap import gain_figure
from ktbench.report.figures.scatter import front_figure
from ktbench.report.pools.figure import Timeline, timeline_figure

__all__ = [
    "BlockLine",
    "Timeline",
    "block_figure",
    "convergence_figure",
    "front_figure",
    "gain_figure",
    "timeline_figure",
]
