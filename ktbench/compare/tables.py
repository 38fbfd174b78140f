"""A comparison as tables of text, before a terminal or Markdown lays them out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from ktbench.compare.comparison import Accuracy, Comparison, Latency, Missing, Setting, points
from ktbench.compare.judging import Verdict
from ktbench.results import Problem

ROWS_SHOWN = 40
"""Most rows of a table; `--json` has all."""
_NOTHING = "–"
_SAME_SIZE = 0.005
"""Share by which files of one graph may differ with their weights."""

_TOGETHER = "An interval is its row's own; the last column judges all rows together (Holm)."

_ORDER: tuple[Verdict, ...] = (
    "regression",
    "worse",
    "better",
    "cannot be judged",
    "no clear change",
    "same",
)
_Judged = TypeVar("_Judged", Accuracy, Latency)


@dataclass(frozen=True)
class Sheet:
    """One table; `words`: how many of its first columns are words, which stand left."""

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: int
    note: str = ""


def sheets(found: Comparison) -> list[Sheet]:
    """All tables that have something to say, the gravest first."""
    trained = [a for a in found.accuracies if not a.export]
    exported = [a for a in found.accuracies if a.export]
    told: list[Sheet | None] = [
        _accuracy_sheet(trained, found),
        _export_sheet(exported, found),
        *_latency_sheets(found.latencies),
        _size_sheet(found),
        _missing_sheet("Trained in A only", found.only_before, found),
        _missing_sheet("Trained in B only", found.only_after, found),
        _damage_sheet("Damaged in A, and left out", found.damaged_before),
        _damage_sheet("Damaged in B, and left out", found.damaged_after),
        _setting_sheet("Settings that differ", found.settings),
        _setting_sheet("Versions and machines that differ", found.versions),
    ]
    return [sheet for sheet in told if sheet is not None]


def summary(found: Comparison) -> list[str]:
    """How many of each verdict there are, and whether anything got worse than is allowed."""
    trained = [a for a in found.accuracies if not a.export]
    same = sum(a.same_weights for a in trained)
    seeds = sum(a.n_after if a.how == "paired" else 0 for a in trained)
    lines = [f"Test accuracy: {_counted(trained)}; the same weights in {same} of {seeds} cells."]
    exported = [a for a in found.accuracies if a.export]
    lines += [f"Export: {_counted(exported)}."] if exported else []
    lines += [f"Latency: {_counted(found.latencies)}."] if found.latencies else []
    for side, damaged in (("A", found.damaged_before), ("B", found.damaged_after)):
        if damaged:
            files = "file" if len(damaged) == 1 else "files"
            lines.append(f"{side}: {len(damaged)} damaged {files} left out; see `ktbench verify`.")
    limits = found.limits
    allowed = f"{limits.accuracy_drop:g} points of accuracy or {limits.latency_rise:g} % of latency"
    worse = found.regressions
    if not worse:
        return [*lines, f"No regression beyond {allowed}."]
    lines.append(f"{len(worse)} regression{'s'[: len(worse) > 1]} beyond {allowed}:")
    return [*lines, *(f"  {line}" for line in worse)]


def _counted(found: Sequence[Accuracy] | Sequence[Latency]) -> str:
    counts = Counter(row.verdict for row in found)
    return ", ".join(f"{v} {counts[v]}" for v in _ORDER if counts[v]) or "nothing in common"


def _sorted(found: Sequence[_Judged], badness: Callable[[_Judged], float]) -> list[_Judged]:
    return sorted(found, key=lambda row: (_ORDER.index(row.verdict), badness(row)))


def _left_out(shown: int, total: int) -> str:
    return f"{shown} of {total:,} rows; all of them with --json FILE." if total > shown else ""


# ---------------------------------------------------------------- accuracy and latency


def _accuracy_sheet(found: Sequence[Accuracy], whole: Comparison) -> Sheet | None:
    rows = [
        [
            a.group.student,
            whole.method(a.group),
            f"{100 * a.before:.1f}",
            f"{100 * a.after:.1f}",
            *_change(a),
        ]
        for a in _sorted(found, lambda a: a.difference)[:ROWS_SHOWN]
    ]
    if not rows:
        return None
    notes = ["Where n is A's/B's seeds, they share too few."] if _unpaired(found) else []
    notes += [_TOGETHER] if any(map(_clear_alone, found)) else []
    note = " ".join([*notes, _left_out(len(rows), len(found))]).strip()
    heads = ["student", "method", "A, %", "B, %", "change, points", "n", ""]
    return Sheet("Test accuracy", heads, rows, 2, note)


def _export_sheet(found: Sequence[Accuracy], whole: Comparison) -> Sheet | None:
    clear = [a for a in found if a.verdict in ("regression", "worse", "better")]
    rows = [
        [
            a.group.student,
            whole.method(a.group),
            a.export,
            points(a.before),
            points(a.after),
            *_change(a),
        ]
        for a in _sorted(clear, lambda a: a.difference)[:ROWS_SHOWN]
    ]
    if not rows:
        return None
    note = f"The clear ones of {len(found):,}. {_left_out(len(rows), len(clear))}".strip()
    heads = ["student", "method", "export", "A", "B", "change, points", "n", ""]
    return Sheet("What export changes of test accuracy, in points", heads, rows, 3, note)


def _change(found: Accuracy) -> list[str]:
    mean = points(found.difference)
    if found.low is not None and found.high is not None:
        mean += f" [{points(found.low)}, {points(found.high)}]"
    n = f"{found.n_after}" if found.how == "paired" else f"{found.n_before}/{found.n_after}"
    return [mean, n, found.verdict]


def _clear_alone(found: Accuracy) -> bool:
    """Whether an interval leaves zero out that is not clear among so many."""
    if found.low is None or found.high is None or found.verdict != "no clear change":
        return False
    return found.low > 0 or found.high < 0


def _unpaired(found: Sequence[Accuracy]) -> bool:
    return any(a.how == "unpaired" for a in found)


def _latency_sheets(found: Sequence[Latency]) -> list[Sheet]:
    """A table per device, whose name in the title leaves room in a narrow terminal.

    The device with the gravest row comes first; the rows are judged together all the same.
    """
    by_place: dict[str, list[Latency]] = {}
    for row in _sorted(found, lambda t: -t.ratio):
        by_place.setdefault(_where(row), []).append(row)
    return [_latency_sheet(place, rows) for place, rows in by_place.items()]


def _latency_sheet(place: str, found: Sequence[Latency]) -> Sheet:
    rows = [
        [
            t.student,
            t.export,
            f"{t.before_ms:.3g}",
            f"{t.after_ms:.3g}",
            _ratio(t),
            "; ".join([t.verdict, *t.notes]),
        ]
        for t in found[:ROWS_SHOWN]
    ]
    heads = ["student", "export", "A, ms", "B, ms", "ratio", ""]
    return Sheet(f"Median latency on {place}", heads, rows, 2, _left_out(len(rows), len(found)))


def _where(found: Latency) -> str:
    extra = [f"{found.threads} threads"] if found.threads != 1 else []
    extra += [found.scenario] if found.scenario != "single_stream" else []
    extra += [found.origin] if found.origin != "measured" else []
    return ", ".join([found.device, *extra])


def _ratio(found: Latency) -> str:
    if found.low is None or found.high is None:
        return f"{found.ratio:.2f}×"
    return f"{found.ratio:.2f}× [{found.low:.2f}, {found.high:.2f}]"


# ---------------------------------------------------------------- the rest


def _size_sheet(found: Comparison) -> Sheet | None:
    odd = [s for s in found.sizes if abs(s.after / s.before - 1) > _SAME_SIZE]
    rows = [
        [
            s.student,
            s.export,
            _kilobytes(s.before),
            _kilobytes(s.after),
            f"{s.after / s.before:.2f}×",
        ]
        for s in odd[:ROWS_SHOWN]
    ]
    if not rows:
        return None
    heads = ["student", "export", "A, kB", "B, kB", "ratio"]
    return Sheet("Size of exported files", heads, rows, 2, _left_out(len(rows), len(odd)))


def _kilobytes(value: float) -> str:
    return f"{value / 1e3:,.1f}"


def _missing_sheet(title: str, found: Sequence[Missing], whole: Comparison) -> Sheet | None:
    rows = [
        [m.group.student, whole.method(m.group), ", ".join(map(str, m.seeds)), m.reason]
        for m in found[:ROWS_SHOWN]
    ]
    if not rows:
        return None
    heads = ["student", "method", "seeds", "on the other side"]
    return Sheet(title, heads, rows, 4, _left_out(len(rows), len(found)))


def _damage_sheet(title: str, found: Sequence[Problem]) -> Sheet | None:
    rows = [[p.path, p.reason, p.remedy] for p in found[:ROWS_SHOWN]]
    if not rows:
        return None
    heads = ["file", "what is wrong", "what to do"]
    return Sheet(title, heads, rows, 3, _left_out(len(rows), len(found)))


def _setting_sheet(title: str, found: Sequence[Setting]) -> Sheet | None:
    rows = [[s.name, s.before or _NOTHING, s.after or _NOTHING] for s in found[:ROWS_SHOWN]]
    if not rows:
        return None
    return Sheet(title, ["", "A", "B"], rows, 3, _left_out(len(rows), len(found)))
