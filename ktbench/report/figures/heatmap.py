"""Students × methods: the paired gain over no transfer, with interval and n in each box."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.patches import Patch, Rectangle

from ktbench.report import gain_words, numbers, scores
from ktbench.report.analysis import NO_TRANSFER
from ktbench.report.document import Figure
from ktbench.report.figures.canvas import (
    GAIN,
    INK,
    LOSS,
    MUTED,
    NEUTRAL,
    drawing,
    rendered,
    wrapped,
)

STUDENTS_SHOWN, METHODS_SHOWN = 16, 10
_SCALE = LinearSegmentedColormap.from_list(
    "gain", ["#8c3a06", LOSS, "#f3b58a", "#ffffff", "#93c1e6", GAIN, "#0d406f"]
)
_GAP = 0.04
_DASHES = (0, (3, 2))

Group = dict[str, Any]
"""A row of `Analysis.gains`."""


def gain_figure(
    gains: pd.DataFrame,
    *,
    name: str,
    caption: str,
    students: Sequence[str],
    methods: Sequence[str],
) -> Figure:
    """Draw the map of one teacher's groups; `gains` as `Analysis.gains` with `letters`.

    Clear gains and losses are filled by a scale centred on zero; what is not clear among all
    comparisons is grey, with a dashed edge where it is clear on its own.
    """
    rows, columns = list(students)[:STUDENTS_SHOWN], list(methods)[:METHODS_SHOWN]
    groups: list[Any] = gains.to_dict("records")
    by_name = {(g["student"], g["method"]): g for g in groups}
    bases = {g["student"]: g for g in groups if g["is_baseline"] and not g["budget"]}
    arrived = gains["protocol_gain"].to_numpy(dtype=float)  # a failure would take all the colour
    limit = max(scores.metric().step, float(np.nanmax(np.abs(np.r_[arrived, 0.0]))))
    longest = max((len(line) for row in rows for line in _row_label(row).split("\n")), default=0)
    width = 0.3 + max(1.4, 0.085 * longest) + 1.4 * (len(columns) + 1)
    with drawing(width, 1.2 + 0.78 * len(rows)) as figure:
        axes = figure.subplots()
        _frame(axes, rows, columns, {str(g["label"]) for g in bases.values()})
        for y, student in enumerate(rows):
            _baseline_box(axes, y, bases.get(student))
            for x, method in enumerate(columns, start=1):
                _box(axes, x, y, by_name.get((student, method)), limit)
        odd = any(g["sign"] == "none" and g["alone"] in ("positive", "negative") for g in groups)
        title = f"{scores.full_unit()}; full colour at ±{scores.metric().bare(limit)}"
        if any(g["letters"] for g in groups):
            title += "\na common letter in a row: these techniques do not differ clearly"
        many = 6 if len(columns) > 5 else 3
        _legend(axes, title, columns=many, alone=odd, lacking=_lacking(groups))
        return rendered(
            figure,
            name=name,
            caption=caption,
            alternative=f"Heat map of gains over no transfer: {len(rows)} students × "
            f"{len(columns)} methods; the table below has the same figures",
        )


def _frame(
    axes: Axes, rows: Sequence[str], columns: Sequence[str], baselines: Collection[str]
) -> None:
    base = next(iter(baselines)) if len(baselines) == 1 else NO_TRANSFER
    axes.set_xlim(-0.5, len(columns) + 0.5)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    heads = [f"{wrapped(base, 17)}\n({scores.word()})", *(wrapped(m, 17) for m in columns)]
    axes.set_xticks(range(len(heads)), heads, fontsize=9)
    axes.set_yticks(range(len(rows)), [_row_label(r) for r in rows], fontsize=9)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _row_label(student: str) -> str:
    return wrapped(student, 20, 3)


def _rectangle(axes: Axes, x: int, y: int, **look: object) -> None:
    side = 1 - 2 * _GAP
    box = Rectangle((x - 0.5 + _GAP, y - 0.5 + _GAP), side, side)
    box.set(in_layout=False, **look)
    axes.add_patch(box)


def _write(
    axes: Axes, x: int, y: int, lines: tuple[str, ...], color: str, *, bold: bool = False
) -> None:
    """A figure with up to three small lines below it."""
    main, *small = (line for line in lines if line)
    weight = "bold" if bold else "normal"
    up, step = (0.11 * len(small), 0.2) if len(small) < 3 else (0.28, 0.175)
    # Text inside the boxes cannot change the layout, and measuring it takes most of the time.
    middle = {"ha": "center", "va": "center", "color": color, "in_layout": False}
    axes.text(x, y - up, main, fontsize=12, weight=weight, **middle)  # type: ignore[arg-type]
    for number, line in enumerate(small):
        below = y - up + 0.26 + step * number
        axes.text(x, below, line, fontsize=7.8, **middle)  # type: ignore[arg-type]


def _mark(axes: Axes, x: int, y: int, letters: str, color: str) -> None:
    """Write letters into the upper right corner; long ones smaller, so that they stay inside."""
    size = 8.5 if len(letters) <= 6 else 6.0
    corner = {"ha": "right", "va": "top", "color": color, "in_layout": False}
    axes.text(x + 0.43, y - 0.4, letters, fontsize=size, style="italic", **corner)  # type: ignore[arg-type]


def _baseline_box(axes: Axes, y: int, base: Group | None) -> None:
    _rectangle(axes, 0, y, facecolor="#ffffff", edgecolor="#d5dae0", linewidth=0.8)
    if base is None:
        _write(axes, 0, y, (numbers.NOTHING,), MUTED)
        return
    few = f" of {base['planned']}" if base["trained"] < base["planned"] else ""
    n = f"n = {base['trained']}{few}"
    _write(axes, 0, y, (scores.figure(base["accuracy"]), n), INK)


def _box(axes: Axes, x: int, y: int, group: Group | None, limit: float) -> None:
    if group is None:
        _write(axes, x, y, (numbers.NOTHING,), MUTED)
        return
    if not group["arrived"]:
        _missing(axes, x, y, group)
        return
    gain, sign = float(group["gain"]), group["sign"]
    bounds = scores.gain_interval(group["gain_low"], group["gain_high"])
    letters = group["letters"]
    n = f"n = {gain_words.seeds(group)}"
    failed = gain_words.failures(group)
    for number, status in ((failed, "failed"), (group["damaged"], "damaged")):
        n += f" · {number} {status}" if number else ""
    arrived = f"{scores.gain(group['protocol_gain'])} if it finishes" if failed else ""
    lines = (scores.gain(gain), bounds, n, arrived)
    if sign in ("positive", "negative"):
        fill = _SCALE(float(np.clip(0.5 + 0.5 * gain / limit, 0, 1)))
        color = "#ffffff" if _luminance((fill[0], fill[1], fill[2])) < 0.42 else INK
        edge = GAIN if sign == "positive" else LOSS
        _rectangle(axes, x, y, facecolor=fill, edgecolor=edge, linewidth=1.4)
        _write(axes, x, y, lines, color, bold=True)
        _mark(axes, x, y, letters, color)
    else:
        # Clear on its own but not among all: an edge without a fill.
        dashed = {"positive": GAIN, "negative": LOSS}.get(group["alone"], "none")
        _rectangle(axes, x, y, facecolor=NEUTRAL, edgecolor=dashed, linestyle=_DASHES)
        _write(axes, x, y, lines, "#4d5864")
        _mark(axes, x, y, letters, "#4d5864")


def _missing(axes: Axes, x: int, y: int, group: Group) -> None:
    hatches = {"failed": "xxx", "damaged": "xxx", "skipped": "///", "pending": "...", "done": ""}
    status = max(hatches, key=lambda s: int(group[s]))
    word = {"pending": "not run", "done": "no pair"}.get(status, status)
    hatch = hatches[status]
    _rectangle(axes, x, y, facecolor="#ffffff", edgecolor="#c3c9d0", linewidth=0.6, hatch=hatch)
    color = "#9c2f10" if status in ("failed", "damaged") else MUTED
    plate = {"facecolor": "#ffffff", "edgecolor": "none", "pad": 1.5}
    axes.text(x, y, word, ha="center", va="center", fontsize=8.5, color=color, bbox=plate)
    if group["n"]:  # all of them failed, and count at chance level
        words = f"{scores.gain(group['gain'])} · n = {gain_words.seeds(group)}"
        place = {"ha": "center", "va": "center", "in_layout": False, "bbox": plate}
        axes.text(x, y + 0.28, words, fontsize=7.8, color=color, **place)  # type: ignore[arg-type]


def _luminance(colour: tuple[float, float, float]) -> float:
    """Relative luminance (WCAG 2), for the contrast of text."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _lacking(groups: Sequence[Group]) -> set[str]:
    """Statuses of groups that have no gain."""
    without = [g for g in groups if not g["arrived"]]
    return {status for status in ("failed", "skipped") if any(g[status] for g in without)}


def _legend(axes: Axes, title: str, *, columns: int, alone: bool, lacking: Collection[str]) -> None:
    handles = [
        Patch(facecolor=_SCALE(0.9), edgecolor=GAIN, linewidth=1.2, label="clear gain"),
        Patch(facecolor=NEUTRAL, edgecolor="#d5dae0", label="no clear difference"),
        Patch(facecolor=_SCALE(0.1), edgecolor=LOSS, linewidth=1.2, label="clear loss"),
    ]
    for status, hatch in (("failed", "xxx"), ("skipped", "///")):
        if status in lacking:
            box = Patch(facecolor="#ffffff", edgecolor="#b5bcc4", hatch=hatch, label=status)
            handles.append(box)
    if alone:
        dashed = Patch(facecolor=NEUTRAL, edgecolor=GAIN, linestyle=_DASHES)
        dashed.set_label("clear on its own, not among all")
        handles.append(dashed)
    axes.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(0, -0.01),
        ncols=columns,
        frameon=False,
        fontsize=8,
        handlelength=1.3,
        handleheight=1.0,
        columnspacing=1.4,
        borderpad=0.2,
        title=title,
        title_fontsize=8,
        alignment="left",
    )
