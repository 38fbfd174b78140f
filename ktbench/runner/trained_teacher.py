"""Trained teachers as jobs hand them on, and a training's request for their outputs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from ktbench.data import Dataset
from ktbench.networks.layout import Layout
from ktbench.networks.weights import load_student
from ktbench.records import Cell, Checkpoint, SourceSpec, Teacher
from ktbench.runner.data_jobs import dataset
from ktbench.students._contract import Student


@dataclass(frozen=True)
class TrainedTeacher:
    """A teacher that is there: its record, and the file of its weights."""

    teacher: Teacher
    checkpoint: Checkpoint
    weights: Path
    notes: tuple[str, ...] = ()
    """Lines that the user should see."""

    @property
    def layout(self) -> Layout | None:
        """The layout that it was trained in, and is run in; None where it is not known."""
        trained_in = self.checkpoint.layout
        if trained_in is None:
            return None
        return Layout(trained_in.name, trained_in.reason, trained_in.checked)

    def trained_on(self, base: Path) -> Dataset:
        """Return the data set that it learnt from, as its network reads it."""
        return dataset(self.teacher.cell.data, base).preprocessed(self.teacher.preprocess)

    def identity(self, base: Path) -> tuple[str, ...]:
        """Return all that its answer to an input depends on."""
        data, own = dataset(self.teacher.cell.data, base), self.teacher.preprocess
        inputs = () if own is None else (own.canonical,)
        return self.teacher.cell.key, self.checkpoint.digest, data.digest, *inputs

    def network(self, base: Path) -> Student:
        """Return the network with its trained weights, in eval mode."""
        dimensions = self.trained_on(base).dimensions
        return load_student(self.teacher.cell, self.weights, base=base, **dimensions)


@dataclass(frozen=True)
class SourceRequest:
    """A training's need for its teacher's outputs."""

    taught: Cell
    """The source's batches are this cell's; cells of its data, order and budget can share them."""
    spec: SourceSpec
    base: Path
    note: Callable[[str], None] = lambda _: None
    history: Path | None = None
    """Folder in which a pool keeps its history."""
    ending: ExitStack | None = None
    """Closes a pool when the training is over."""
