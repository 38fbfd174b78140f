"""The context of a cohort's trainings: data, teacher, places on disk, limits and listeners."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ktbench.data import Dataset
from ktbench.networks.layout import Layout
from ktbench.records import Cell, KtbenchError
from ktbench.students._contract import Features, Student
from ktbench.teacher.source import TeacherSource
from ktbench.transfer_methods._contract import Batch

Note = Callable[[str], None]
"""Receives one line for the user."""

INTERVAL_VARIABLE = "KTBENCH_CHECKPOINT_SECONDS"
INTERVAL_S = 20.0
"""Default time between two checkpoints of an unfinished training."""


@dataclass(frozen=True)
class Places:
    """Paths of a cell's files; the paths in its record are relative to `root`."""

    root: Path
    weights: Path
    curves: Path
    work: Path
    """The checkpoint of an unfinished training."""


@dataclass(frozen=True)
class Progress:
    """Epochs done, of all epochs of all cells."""

    done: int
    total: int


@dataclass(frozen=True, kw_only=True)
class TrainingContext:
    """Everything that a cohort's training depends on besides its cells."""

    dataset: Dataset
    teacher: TeacherSource | None
    places: Callable[[Cell], Places]
    base: Path
    """Folder that the relative paths of a matrix start from."""
    report: Callable[[Progress], None] = lambda _: None
    note: Note = lambda _: None
    checkpoint_seconds: float | None = None
    """Time between two checkpoints; None: as `checkpoint_interval` says."""
    memory: int | None = None
    """Most bytes that this process may hold; None: half of what is free here, divided by the
    number of `workers`."""
    workers: int = 1
    """Processes that train on this machine at the same time."""
    safeguard: bool = False
    """Keep the start of each epoch in memory, and write it when a StorageError ends the training:
    for a teacher source whose workers may all disappear."""
    first_weights: Callable[[Cell], Path | None] = lambda _: None
    """File of the weights that a cell begins from which has a `start` or is `pretrained`; such a
    cell fails without one."""
    warmups: Callable[[Cell], Student | None] = lambda _: None
    """Trained student that the pairs of a cell with a `warmup` are chosen with; such a cell fails
    without one."""
    layouts: Callable[[Cell], Layout | None] = lambda _: None
    """Layout that a cell's student runs in; None: as its own layers decide."""

    @property
    def interval(self) -> float:
        """Seconds between two checkpoints of an unfinished training."""
        given = self.checkpoint_seconds
        return checkpoint_interval() if given is None else given


@dataclass(frozen=True)
class SharedInputs:
    """Data and probe outputs that every student of a cohort is built from."""

    dataset: Dataset
    base: Path
    probe: Batch
    """A few training images, to find shapes and dependencies."""
    teacher_features: Features | None = None
    """The teacher's outputs for the probe; None without a teacher."""
    teacher_stages: tuple[str, ...] = ()
    """Names of the teacher's stages."""
    comparison: Callable[[], tuple[Batch, Features]] | None = None
    """Return the images that stages are compared on, and the teacher's outputs for them."""


def checkpoint_interval() -> float:
    """Seconds between two checkpoints: `$KTBENCH_CHECKPOINT_SECONDS`, or 20; 0 is every epoch."""
    text = os.environ.get(INTERVAL_VARIABLE)
    if not text:
        return INTERVAL_S
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not seconds >= 0:
        raise KtbenchError(f"{INTERVAL_VARIABLE}={text}: must be seconds, 0 or more")
    return seconds
