"""Words and marks of a gain, the same wherever it stands: its seeds, its failures."""

from __future__ import annotations

from ktbench.report import numbers, scores
from ktbench.report.document import Box, Row


def failures(row: Row) -> int:
    """Pairs of a gain in which a side failed by itself; 0 in frames that do not count them."""
    return sum(int(row[name]) for name in ("pairs_failed", "baseline_failed") if name in row)


def seeds(row: Row) -> str:
    """`5`, or `4 of 5` for a gain from fewer seeds than planned."""
    planned = int(row["planned"] if "planned" in row else row["n"])
    return f"{row['n']}" if row["n"] >= planned else f"{row['n']} of {planned}"


def counted(row: Row) -> str:
    """`n = 5, 2 of them failed`: the seeds of a gain."""
    words = f"n = {seeds(row)}"
    if row.get("pairs_failed"):
        words += f", {row['pairs_failed']} of them failed"
    if row.get("baseline_failed"):
        words += f", {row['baseline_failed']} of them failed without transfer"
    return words


def arrived(row: Row) -> str:
    """`+1.9 [+0.4, +3.4] among seeds that finished`; empty unless some seeds failed, some not."""
    if not failures(row) or not row["arrived"]:
        return ""
    bounds = scores.gain_interval(row["protocol_low"], row["protocol_high"])
    return f"{scores.gain(row['protocol_gain'])} {bounds}".strip() + " among seeds that finished"


def with_arrived(words: str, row: Row) -> str:
    """A gain in words, with that of the seeds that finished beside it where some failed."""
    return "; ".join(part for part in (words, arrived(row)) if part)


def beside(words: str, row: Row) -> str:
    """A gain for a narrow column: `−32.6 [−60.1, +7.0], finished −2.6`."""
    if not failures(row) or not row["arrived"]:
        return words
    return f"{words}, finished {scores.gain(row['protocol_gain'])}"


def seeds_box(row: Row) -> Box:
    """The seeds of a gain, marked where they are fewer than planned or some failed."""
    marked = row["n"] < row.get("planned", row["n"]) or failures(row)
    return Box(seeds(row), "warn" if marked else "", counted(row) if marked else "")


def failed_box(row: Row, *, bounded: bool = False) -> Box:
    """`2 of 5`: the seeds that the technique itself ended, `bounded` by Wilson's interval."""
    if not row["tried"]:
        return Box(numbers.NOTHING, "muted")
    text = f"{row['own_failures']} of {row['tried']}"
    if not row["own_failures"]:
        return Box(text, "", f"up to {100 * row['failing_high']:.0f} % are not excluded")
    bounds = f"[{100 * row['failing_low']:.0f} to {100 * row['failing_high']:.0f} %]"
    if bounded:
        return Box(f"{text} {bounds}", "bad", row["reason"])
    return Box(text, "bad", f"{bounds} {row['reason']}")
