"""Data classes that hold a comparison of two results folders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ktbench.compare.judging import How, Verdict
from ktbench.records import ACCURACY, Metric
from ktbench.results import Problem
from ktbench.stats import LEAST_SEEDS


@dataclass(frozen=True)
class Limits:
    """Tolerances: B is a regression where it is worse than A by more than these."""

    accuracy_drop: float = 0.0
    """Points of test accuracy, or the unit of another metric."""
    latency_rise: float = 10.0
    """Percent."""


@dataclass(frozen=True)
class Group:
    """A student with a method, over its seeds."""

    student: str
    method: str
    teacher: str
    budget: str
    """Settings in which it differs from most cells of its folder; empty for most."""


@dataclass(frozen=True)
class Accuracy:
    """Test accuracy, or another metric, of a group as trained, or what an export changes of it."""

    group: Group
    export: str
    """Empty for the network as trained. Else `before` and `after` are the exported file's accuracy
    minus that of the network that it was made of, above 0 where the file is better."""
    before: float
    """Mean over the seeds that are compared; failed trainings at chance level."""
    after: float
    difference: float
    """Change of B from A: above 0 where B is better, whichever way the metric goes."""
    low: float | None
    high: float | None
    how: How
    n_before: int
    n_after: int
    same_weights: int
    """Seeds whose weights are the same bit for bit."""
    verdict: Verdict
    failed_before: int = 0
    """Seeds whose training the technique itself ended, of those compared."""
    failed_after: int = 0
    planned_before: int = 0
    """Seeds of A's matrix."""
    planned_after: int = 0
    arrived: float | None = None
    """Difference over the seeds that finished on both sides, where some did not."""

    @property
    def too_few(self) -> bool:
        """True where there are fewer seeds than a verdict takes."""
        return min(self.n_before, self.n_after) < LEAST_SEEDS


@dataclass(frozen=True)
class Latency:
    """Median time of one inference of one graph on one device."""

    student: str
    export: str
    device: str
    origin: str
    threads: int
    scenario: str
    before_ms: float
    after_ms: float
    ratio: float
    """Latency of B over that of A: above 1, B is slower."""
    low: float | None
    high: float | None
    repeats_before: int
    repeats_after: int
    verdict: Verdict
    notes: tuple[str, ...]
    """Further differences, and why there is no verdict where there is none."""
    doubtful_before: bool = False
    """True where A's measurement has a warning or is not valid."""
    doubtful_after: bool = False


@dataclass(frozen=True)
class Size:
    """Mean size of a student's exported files."""

    student: str
    export: str
    before: float
    after: float


@dataclass(frozen=True)
class Setting:
    """A setting, a version or a fact of the machine that differs between the two runs."""

    name: str
    before: str
    after: str


@dataclass(frozen=True)
class Missing:
    """Cells that only one of the two folders has trained."""

    group: Group
    seeds: tuple[int, ...]
    reason: str
    """`not in the matrix`, `not run yet`, or why they failed or were skipped on the other side."""
    failed: bool
    """True where the other side tried them and failed."""


@dataclass(frozen=True)
class Comparison:
    """Everything that differs between a results folder A (`before`) and another, B (`after`)."""

    before: Path
    after: Path
    limits: Limits
    accuracies: Sequence[Accuracy]
    latencies: Sequence[Latency]
    sizes: Sequence[Size]
    settings: Sequence[Setting]
    versions: Sequence[Setting]
    only_before: Sequence[Missing]
    only_after: Sequence[Missing]
    metric: Metric = ACCURACY
    """Metric that both are judged by."""
    damaged_before: Sequence[Problem] = ()
    """Damaged files of A, which are left out."""
    damaged_after: Sequence[Problem] = ()

    @cached_property
    def several_teachers(self) -> bool:
        """True where a method's name alone does not say which teacher it had."""
        groups = [a.group for a in self.accuracies]
        groups += [m.group for m in (*self.only_before, *self.only_after)]
        return len({group.teacher for group in groups if group.teacher}) > 1

    def method(self, group: Group) -> str:
        """The group's method, with its teacher where there are several, and its budget."""
        teacher = f" ← {group.teacher}" if group.teacher and self.several_teachers else ""
        return f"{group.method}{teacher}{f' [{group.budget}]' if group.budget else ''}"

    @cached_property
    def regressions(self) -> list[str]:
        """One line for each regression, newly failed cells included."""
        lines = [
            f"{a.group.student} / {self.method(a.group)}{f' as {a.export}' if a.export else ''}: "
            f"{self.metric.difference(a.difference)} {self.metric.unit}"
            for a in self.accuracies
            if a.verdict == "regression"
        ]
        lines += [
            f"{t.student} as {t.export} on {t.device}: {t.ratio:.2f}× the latency"
            + (" (a doubtful measurement)" if t.doubtful_before or t.doubtful_after else "")
            for t in self.latencies
            if t.verdict == "regression"
        ]
        return lines + [
            f"{m.group.student} / {self.method(m.group)}, seed {', '.join(map(str, m.seeds))}: "
            f"failed ({m.reason})"
            for m in self.only_before
            if m.failed
        ]

    def as_json(self) -> dict[str, Any]:
        """The comparison as JSON values, for programs."""
        values = asdict(self)
        values |= {"before": str(self.before), "after": str(self.after)}
        values["metric"] = self.metric.name
        return {"regressions": self.regressions, **values}
