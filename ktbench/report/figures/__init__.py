"""The report's drawings; each function returns a `Figure` in SVG and PNG."""

from ktbench.report.figures.curves import convergence_figure as convergence_figure
from ktbench.report.figures.heatmap import gain_figure as gain_figure
from ktbench.report.figures.scatter import front_figure as front_figure
