"""A comparison as tables of text, before a terminal or Markdown lays them out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from ktbench.compare.comparison import Accuracy, Comparison, Latency, Missing, Setting
from ktbench.compare.judging import Verdict
from ktbench.records import Metric
from ktbench.results import Problem
from ktbench.stats import FIRST_SEEDS, LEAST_SEEDS

ROWS_SHOWN = 40
"""Most rows of a table; `--json` has all."""
_NOTHING = "–"
_SAME_SIZE = 0.005
"""Share by which files of one graph may differ with their weights."""

_TOGETHER = "An interval is its row's own; the last column judges all rows together (Holm)."

_AT_CHANCE = "A training that its own technique ended counts at chance level"

_DOUBT = " †"
"""Mark of a measurement with a warning, or one that is not valid; its reason stands in the row."""

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


def sheets(comparison: Comparison) -> list[Sheet]:
    """All tables with at least one row, the gravest first."""
    trained = [a for a in comparison.accuracies if not a.export]
    exported = [a for a in comparison.accuracies if a.export]
    tables: list[Sheet | None] = [
        _accuracy_sheet(trained, comparison),
        _export_sheet(exported, comparison),
        *_latency_sheets(comparison.latencies),
        _size_sheet(comparison),
        _missing_sheet("Trained in A only", comparison.only_before, comparison),
        _missing_sheet("Trained in B only", comparison.only_after, comparison),
        _damage_sheet("Damaged in A, and left out", comparison.damaged_before),
        _damage_sheet("Damaged in B, and left out", comparison.damaged_after),
        _setting_sheet("Settings that differ", comparison.settings),
        _setting_sheet("Versions and machines that differ", comparison.versions),
    ]
    return [sheet for sheet in tables if sheet is not None]


def summary(comparison: Comparison) -> list[str]:
    """Summary lines: counts of verdicts, then the regressions beyond what is allowed."""
    metric = comparison.metric
    trained = [a for a in comparison.accuracies if not a.export]
    same = sum(a.same_weights for a in trained)
    seeds = sum(a.n_after if a.how == "paired" else 0 for a in trained)
    lines = [
        f"Test {metric.word}: {_counted(trained)}; the same weights in {same} of {seeds} cells."
    ]
    failed = [
        sum(side)
        for side in zip(*((a.failed_before, a.failed_after) for a in trained), strict=True)
    ]
    if any(failed):
        lines.append(f"Failed seeds, counted at chance level: {failed[0]} in A, {failed[1]} in B.")
    exported = [a for a in comparison.accuracies if a.export]
    lines += [f"Export: {_counted(exported)}."] if exported else []
    lines += [f"Latency: {_counted(comparison.latencies)}."] if comparison.latencies else []
    for side, damaged in (("A", comparison.damaged_before), ("B", comparison.damaged_after)):
        if damaged:
            files = "file" if len(damaged) == 1 else "files"
            lines.append(f"{side}: {len(damaged)} damaged {files} left out; see `ktbench verify`.")
    limits = comparison.limits
    unit = metric.word if metric.unit == metric.word else f"{metric.unit} of {metric.word}"
    allowed = f"{limits.accuracy_drop:g} {unit} or {limits.latency_rise:g} % of latency"
    worse = comparison.regressions
    if not worse:
        return [*lines, f"No regression beyond {allowed}."]
    lines.append(f"{len(worse)} regression{'s'[: len(worse) > 1]} beyond {allowed}:")
    return [*lines, *(f"  {line}" for line in worse)]


def _counted(rows: Sequence[Accuracy] | Sequence[Latency]) -> str:
    counts = Counter(row.verdict for row in rows)
    return ", ".join(f"{v} {counts[v]}" for v in _ORDER if counts[v]) or "nothing in common"


def _sorted(rows: Sequence[_Judged], badness: Callable[[_Judged], float]) -> list[_Judged]:
    return sorted(rows, key=lambda row: (_ORDER.index(row.verdict), badness(row)))


def _left_out(shown: int, total: int) -> str:
    return f"{shown} of {total:,} rows; all of them with --json FILE." if total > shown else ""


# ---------------------------------------------------------------- accuracy and latency


def _accuracy_sheet(accuracies: Sequence[Accuracy], comparison: Comparison) -> Sheet | None:
    metric = comparison.metric
    failing = any(a.failed_before or a.failed_after for a in accuracies)
    rows = [
        [
            a.group.student,
            comparison.method(a.group),
            metric.bare(a.before),
            metric.bare(a.after),
            *([_failed(a)] if failing else []),
            *_change(a, metric),
        ]
        for a in _sorted(accuracies, lambda a: a.difference)[:ROWS_SHOWN]
    ]
    if not rows:
        return None
    notes = ["n as A/B: too few seeds in common to pair them."] if _unpaired(accuracies) else []
    notes += [_TOGETHER] if any(map(_clear_alone, accuracies)) else []
    notes += [f"{_AT_CHANCE}{', 1 / classes' * (metric.chance is None)}."] if failing else []
    if few := sum(a.too_few for a in accuracies):
        notes.append(_too_few(few))
    note = " ".join([*notes, _left_out(len(rows), len(accuracies))]).strip()
    if metric.better == "less":
        note = (
            f"Less {metric.word} is better: a change above 0 is one for the better. {note}".strip()
        )
    sides = ["A, %", "B, %"] if metric.digits is None else ["A", "B"]
    heads = ["student", "method", *sides, *(["failed, A → B"] if failing else [])]
    heads += [f"change, {metric.unit}", "n", ""]
    return Sheet(f"Test {metric.word}", heads, rows, 2, note)


def _export_sheet(accuracies: Sequence[Accuracy], comparison: Comparison) -> Sheet | None:
    metric = comparison.metric
    clear = [a for a in accuracies if a.verdict in ("regression", "worse", "better")]
    rows = [
        [
            a.group.student,
            comparison.method(a.group),
            a.export,
            metric.difference(a.before),
            metric.difference(a.after),
            *_change(a, metric),
        ]
        for a in _sorted(clear, lambda a: a.difference)[:ROWS_SHOWN]
    ]
    if not rows:
        return None
    note = f"The clear ones of {len(accuracies):,}. {_left_out(len(rows), len(clear))}".strip()
    heads = ["student", "method", "export", "A", "B", f"change, {metric.unit}", "n", ""]
    title = f"Effect of export on test {metric.word}, in {metric.unit}"
    return Sheet(title, heads, rows, 3, note)


def _change(accuracy: Accuracy, metric: Metric) -> list[str]:
    written = metric.difference
    mean = written(accuracy.difference)
    if accuracy.low is not None and accuracy.high is not None:
        mean += f" [{written(accuracy.low)}, {written(accuracy.high)}]"
    if accuracy.arrived is not None:
        mean += f"; {written(accuracy.arrived)} among seeds that finished"
    sides = [
        f"{n} of {planned}" if n < planned else f"{n}"
        for n, planned in (
            (accuracy.n_before, accuracy.planned_before),
            (accuracy.n_after, accuracy.planned_after),
        )
    ]
    paired = accuracy.how == "paired" and sides[0] == sides[1]
    n = sides[1] if paired else "/".join(sides)
    return [mean, n, accuracy.verdict]


def _failed(accuracy: Accuracy) -> str:
    """`0 of 5 → 2 of 5` seeds that the technique itself ended."""
    before, after = accuracy.failed_before, accuracy.failed_after
    if not before and not after:
        return _NOTHING
    return f"{before} of {accuracy.n_before} → {after} of {accuracy.n_after}"


def _too_few(count: int) -> str:
    rows = "1 row has" if count == 1 else f"{count} rows have"
    return (
        f"{rows} fewer than {LEAST_SEEDS} seeds and no verdict: run both matrices with "
        f"`seeds: {FIRST_SEEDS}`."
    )


def _clear_alone(accuracy: Accuracy) -> bool:
    """True where an interval excludes zero but the row is not clear among all rows."""
    if accuracy.low is None or accuracy.high is None or accuracy.verdict != "no clear change":
        return False
    return accuracy.low > 0 or accuracy.high < 0


def _unpaired(accuracies: Sequence[Accuracy]) -> bool:
    return any(a.how == "unpaired" for a in accuracies)


def _latency_sheets(latencies: Sequence[Latency]) -> list[Sheet]:
    """One table per device, named in the title to leave room in a narrow terminal.

    The device with the gravest row comes first; the rows are judged together all the same.
    """
    by_place: dict[str, list[Latency]] = {}
    for row in _sorted(latencies, lambda t: -t.ratio):
        by_place.setdefault(_where(row), []).append(row)
    return [_latency_sheet(place, rows) for place, rows in by_place.items()]


def _latency_sheet(place: str, latencies: Sequence[Latency]) -> Sheet:
    rows = [
        [
            t.student,
            t.export,
            f"{t.before_ms:.3g}{_DOUBT * t.doubtful_before}",
            f"{t.after_ms:.3g}{_DOUBT * t.doubtful_after}",
            _ratio(t),
            "; ".join([t.verdict, *t.notes]),
        ]
        for t in latencies[:ROWS_SHOWN]
    ]
    heads = ["student", "export", "A, ms", "B, ms", "ratio", ""]
    return Sheet(f"Median latency on {place}", heads, rows, 2, _left_out(len(rows), len(latencies)))


def _where(latency: Latency) -> str:
    extra = [f"{latency.threads} threads"] if latency.threads != 1 else []
    extra += [latency.scenario] if latency.scenario != "single_stream" else []
    extra += [latency.origin] if latency.origin != "measured" else []
    return ", ".join([latency.device, *extra])


def _ratio(latency: Latency) -> str:
    if latency.low is None or latency.high is None:
        return f"{latency.ratio:.2f}×"
    return f"{latency.ratio:.2f}× [{latency.low:.2f}, {latency.high:.2f}]"


# ---------------------------------------------------------------- the rest


def _size_sheet(comparison: Comparison) -> Sheet | None:
    odd = [s for s in comparison.sizes if abs(s.after / s.before - 1) > _SAME_SIZE]
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


def _missing_sheet(title: str, missing: Sequence[Missing], comparison: Comparison) -> Sheet | None:
    rows = [
        [m.group.student, comparison.method(m.group), ", ".join(map(str, m.seeds)), m.reason]
        for m in missing[:ROWS_SHOWN]
    ]
    if not rows:
        return None
    heads = ["student", "method", "seeds", "on the other side"]
    return Sheet(title, heads, rows, 4, _left_out(len(rows), len(missing)))


def _damage_sheet(title: str, problems: Sequence[Problem]) -> Sheet | None:
    rows = [[p.path, p.reason, p.remedy] for p in problems[:ROWS_SHOWN]]
    if not rows:
        return None
    heads = ["file", "what is wrong", "what to do"]
    return Sheet(title, heads, rows, 3, _left_out(len(rows), len(problems)))


def _setting_sheet(title: str, settings: Sequence[Setting]) -> Sheet | None:
    rows = [[s.name, s.before or _NOTHING, s.after or _NOTHING] for s in settings[:ROWS_SHOWN]]
    if not rows:
        return None
    return Sheet(title, ["", "A", "B"], rows, 3, _left_out(len(rows), len(settings)))
