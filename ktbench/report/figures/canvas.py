"""One look for all figures, and rendering that gives the same bytes for the same data."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Drawing

from ktbench.report import scores
from ktbench.report.document import Figure

INK = "#1d2733"
MUTED = "#6b7683"
RULE = "#d5dae0"
GAIN = "#1f6fb2"
LOSS = "#c8601a"
NEUTRAL = "#f3f4f5"

# Okabe and Ito's palette, whose colours differ for every common kind of colour blindness; yellow
# is left out, as it is too light for lines on white.
LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#7A5195", "#8C6D31")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")

_FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
_DPI = 100


@contextmanager
def _style() -> Iterator[None]:
    settings: Any = {
        "font.family": "DejaVu Sans",
        "font.size": 9,
        "text.color": INK,
        "text.parse_math": False,  # A label may hold a dollar sign.
        "axes.edgecolor": RULE,
        "axes.labelcolor": INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": "#e9ecef",
        "grid.linewidth": 0.8,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "xtick.labelcolor": INK,
        "ytick.labelcolor": INK,
        "hatch.color": "#b5bcc4",
        "hatch.linewidth": 0.7,
        "svg.fonttype": "none",
        "svg.hashsalt": "ktbench",
    }
    with mpl.rc_context(settings):
        yield


@contextmanager
def drawing(width: float, height: float) -> Iterator[Drawing]:
    """A blank figure of so many inches, in the report's style while the block lasts."""
    with _style():
        figure = Drawing(figsize=(width, height), dpi=_DPI, layout="constrained")
        FigureCanvasAgg(figure)
        yield figure


def rendered(figure: Drawing, *, name: str, caption: str, alternative: str) -> Figure:
    """Both formats of a finished drawing, without a date; call it inside its `drawing` block."""
    svg, png = io.BytesIO(), io.BytesIO()
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # The layout is found; each format would find it again.
    figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    figure.savefig(png, format="png", dpi=2 * _DPI, metadata={"Software": None})
    text = svg.getvalue().replace(b"'DejaVu Sans'", _FONTS.encode())
    width = round(figure.get_figwidth() * _DPI)
    return Figure(name, caption, alternative, text, png.getvalue(), width)


def wrapped(label: str, width: int = 16, lines: int = 3) -> str:
    """A label on a few short lines, broken after `_` and before `(`; cut when it does not fit."""
    pieces = re.findall(r"[^_(\s]+_*\s*|\([^\s]*\s*|_+", label) or [label]
    broken = [""]
    for piece in pieces:
        if broken[-1] and len(broken[-1]) + len(piece.rstrip()) > width:
            broken.append("")
        broken[-1] += piece
    if len(broken) > lines:
        broken = [*broken[: lines - 1], "".join(broken[lines - 1 :])]
    return "\n".join(_cut(line.rstrip(), width + width // 2) for line in broken)


def _cut(line: str, longest: int) -> str:
    return line if len(line) <= longest else f"{line[: longest - 1]}…"


def score_axis(axes: Axes, which: Literal["x", "y"] = "y") -> None:
    """Ticks of qualities as the metric's own figures."""
    if scores.metric().digits is None:
        percent_axis(axes, which)
    else:
        axis = axes.yaxis if which == "y" else axes.xaxis
        axis.set_major_formatter(lambda value, _: f"{scores.metric().quality(value):g}")


def percent_axis(axes: Axes, which: str = "y") -> None:
    """Ticks of shares as percentages, with as many places as they need."""
    axis = axes.yaxis if which == "y" else axes.xaxis

    def show(value: float, _: float) -> str:
        low, high = axes.get_ylim() if which == "y" else axes.get_xlim()
        places = 0 if abs(high - low) > 0.06 else 1
        return f"{100 * value:.{places}f} %"

    axis.set_major_formatter(show)
