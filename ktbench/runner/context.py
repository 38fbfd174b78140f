"""State that the waves of one run share, and the summary that it ends with."""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from ktbench.engine.contract import Engine
from ktbench.networks.layout import Layout
from ktbench.records import (
    Assembly,
    Cell,
    Failure,
    Plan,
    Pretraining,
    Provenance,
    Result,
    digest_of,
)
from ktbench.results import ResultsFolder
from ktbench.runner.progress import Watcher
from ktbench.runner.trained_teacher import TrainedTeacher

Teachers = dict[str, TrainedTeacher | Failure]
"""Trained and failed teachers, warm-ups and pretrainings, by their canonical text."""
Starts = dict[str, Assembly | Failure]
"""First weights by the cell's key; cells that begin from fresh weights are missing."""


@dataclass
class Summary:
    """Counts, failures and seconds of a run."""

    folder: Path
    done: int = 0
    reused: int = 0
    failed: list[Result] = field(default_factory=list)
    skipped: int = 0
    measured: int = 0
    unmeasured: list[Failure] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    """Seconds by stage; `total` is the whole run, its remainder the runner's own."""
    report: Path | None = None

    @property
    def ok(self) -> bool:
        """True when no cell failed and every device answered."""
        return not self.failed and not self.unmeasured


BATCH = 32
"""Images of a batch whose arithmetic is checked, at most."""


@dataclass
class Checked:
    """The layouts of a run's architectures, or why one of them cannot be trained here."""

    layouts: dict[str, Layout | Failure] = field(default_factory=dict)

    def of(self, cell: Cell) -> Layout | Failure | None:
        """Return the layout of a cell's student; None where its own layers decide."""
        return self.layouts.get(architecture(cell))


def architecture(cell: Cell) -> str:
    """Return a digest that is equal for students built alike whose steps are of the same kind."""
    numeric = cell.numeric.model_copy(update={"outputs": None})
    batch = min(cell.train.batch_size, BATCH)
    return digest_of([cell.student.canonical, cell.data.canonical, numeric.canonical, batch])


def teachers_of(cell: Cell, teachers: Teachers) -> tuple[TrainedTeacher, ...] | Failure:
    """Return all that a cell's teacher is made of, or why one of them is not there."""
    outcomes = [teachers[teacher.canonical] for teacher in cell.teachers]
    failures = [outcome for outcome in outcomes if isinstance(outcome, Failure)]
    return failures[0] if failures else tuple(o for o in outcomes if not isinstance(o, Failure))


def pretrained_of(cell: Cell, teachers: Teachers) -> TrainedTeacher | Failure | None:
    """Return the training whose weights the cell begins from, or why it is not there."""
    return None if cell.pretrained is None else teachers[cell.pretrained.canonical]


def warmup_of(cell: Cell, teachers: Teachers) -> TrainedTeacher | Failure | None:
    """Return the student that the cell's pairs are chosen with, or why it is not there."""
    return None if cell.warmup is None else teachers[cell.warmup.canonical]


def pretraining_of(cell: Cell, teachers: Teachers) -> Pretraining | None:
    """Return the record of what a cell began from, where this run has it."""
    if cell.pretrained is None:
        return None
    trained = teachers.get(cell.pretrained.canonical)
    if not isinstance(trained, TrainedTeacher):
        return None
    above = [teachers.get(teacher.canonical) for teacher in cell.pretrained.cell.teachers]
    taught_by = tuple(one.checkpoint for one in above if isinstance(one, TrainedTeacher))
    before = pretraining_of(cell.pretrained.cell, teachers)
    return Pretraining(checkpoint=trained.checkpoint, taught_by=taught_by, before=before)


@dataclass(frozen=True)
class RunContext:
    """Plan, folder, engine and watcher of one run, and what its waves hand on."""

    plan: Plan
    results: ResultsFolder
    provenance: dict[str, Provenance]
    """Provenance by data set: it holds the digest of what that data set's cells learnt from."""
    engine: Engine
    watcher: Watcher
    summary: Summary
    memory: int | None = None
    starts: Starts = field(default_factory=dict)
    checked: Checked = field(default_factory=Checked)

    @property
    def base(self) -> Path:
        """The folder that relative paths of the matrix start from."""
        return Path(self.plan.base)

    @property
    def root(self) -> Path:
        """The results folder, as a job that runs elsewhere can find it."""
        return self.results.path.absolute()

    def provenance_of(self, cell: Cell) -> Provenance:
        """Return the provenance of a cell that this run makes."""
        return self.provenance[cell.data.canonical]


class clocked:  # noqa: N801 - used as a statement
    """Adds the seconds of a block to a stage."""

    def __init__(self, summary: Summary, stage: str) -> None:
        self._summary, self._stage = summary, stage

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._summary.seconds[self._stage] += time.perf_counter() - self._began
