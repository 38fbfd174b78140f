"""Marks of doubtful latencies: whatever figure they stand in, the mark goes with it."""

from __future__ import annotations

from ktbench.report import numbers
from ktbench.report.document import Box, Row

MARK = "†"
LEGEND = f"{MARK} The measurement is doubtful: it has a warning, or is not valid."


def why(row: Row) -> str:
    """Reasons to doubt the measurement behind a row; empty where there is none.

    `row` has `valid`, `reasons` and `warnings`, as frames of measurements do.
    """
    invalid = f"invalid: {row['reasons']}" if not row["valid"] else ""
    return "; ".join(part for part in (invalid, row["warnings"]) if part)


def marked(text: str, row: Row) -> str:
    """A figure of the measurement with its mark."""
    return f"{text} {MARK}" if why(row) and text != numbers.NOTHING else text


def latency_box(value: object, row: Row, bounds: str = "") -> Box:
    """A latency with its mark, and the reason on hovering."""
    text = marked(f"{numbers.milliseconds(value)}{bounds}", row)
    return Box(text, ("warn" if row["valid"] else "bad") if why(row) else "", why(row))


def in_words(text: str, row: Row) -> str:
    """`0.07 ms measured (doubtful: median below 0.1 ms)`, with the first reason of several."""
    first, *others = why(row).split("; ")
    more = f", and {len(others)} more" if others else ""
    return f"{text} (doubtful: {first}{more})" if first else text
