"""Trainees at their start or at their last checkpoint, as many at once as the memory holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

from ktbench.data import Dataset, Stream
from ktbench.isolation import Guard
from ktbench.networks.layout import Layout
from ktbench.networks.numeric import COMPARED, EVERYTHING
from ktbench.networks.weights import read_torch
from ktbench.records import Cell, Failure, KtbenchError, StorageError, one_line
from ktbench.students._contract import Features
from ktbench.supervision import mark
from ktbench.teacher.source import TeacherSource
from ktbench.train.context import Note, SharedInputs, TrainingContext
from ktbench.train.device_placement import comparison_batch
from ktbench.train.memory_budget import Budget
from ktbench.train.memory_probe import (
    ROOMY,
    MemoryBound,
    heap_trimmer,
    measure,
    notes_for_user,
    split_by_memory,
)
from ktbench.train.trainee import Trainee
from ktbench.transfer_methods._contract import Batch


@dataclass
class Comparison:
    """The images that stages are compared on, and the teacher's outputs for them, made when asked.

    It refers to no builder: a cycle would keep a pool's client open until the next collection.
    """

    dataset: Dataset
    teacher: TeacherSource
    probe: Batch
    probed: Features
    guard: Guard

    @cached_property
    def outputs(self) -> tuple[Batch, Features]:
        """Run the teacher on the images, once for all students."""
        batch = comparison_batch(self.dataset, self.probe, self.probed)
        with self.guard.kept(all_of_it=True):
            return batch, self.teacher.outputs(batch, COMPARED)


@dataclass
class TraineeBuilder:
    """Builds the trainees of cells that share a context."""

    context: TrainingContext
    probe: Batch
    guard: Guard = field(default_factory=Guard)
    _noted: set[str] = field(default_factory=set)

    @cached_property
    def shared(self) -> SharedInputs:
        """The inputs of all trainees; the teacher's probe outputs are one copy for all."""
        dataset, base, teacher = self.context.dataset, self.context.base, self.context.teacher
        if teacher is None:
            return SharedInputs(dataset, base, self.probe)
        with self.guard.kept(all_of_it=True):
            features = teacher.outputs(self.probe, EVERYTHING)
        comparison = Comparison(dataset, teacher, self.probe, features, self.guard)
        return SharedInputs(
            dataset, base, self.probe, features, teacher.stage_names, lambda: comparison.outputs
        )

    def note_settings(self, cell: Cell, changed: Sequence[str]) -> None:
        """Tell the user, once, which settings of the process a cell's code changes."""
        line = f"{cell.label}: its code changed {', '.join(changed)}: put back"
        if line not in self._noted:
            self._noted.add(line)
            self.context.note(line)

    def build(self, cell: Cell, layout: Layout | None = None) -> Trainee:
        """Build a trainee at its start; `layout` is the one that an earlier run began it in."""
        shared, first_weights = self.shared, self.context.first_weights(cell)
        layout, warmed_up = layout or self.context.layouts(cell), self.context.warmups(cell)
        with self.guard.containing(partial(self.note_settings, cell), all_of_it=True):
            return Trainee(cell, shared, first_weights, layout, warmed_up)

    def open(self, cell: Cell, note: Note) -> Trainee | Failure:
        """Return a trainee at its start or last checkpoint; a Failure when it cannot be built."""
        work = self.context.places(cell).work
        mark(cell.key, "building the network and its method", cell.label)
        try:
            trainee = self.build(cell)
            if work.exists():
                try:
                    saved = read_torch(work)
                    layout = saved_layout(saved, trainee.layout)
                    if layout.name != trainee.layout.name:
                        trainee = self.build(cell, layout)
                    with self.guard.containing(all_of_it=True):
                        trainee.restore(saved)
                except Exception as error:  # It is only saved work: training again gives the same.
                    reason = f"its saved work does not fit ({one_line(error)})"
                    note(f"trains from the start: {cell.label}: {reason}")
                    trainee = self.build(cell)
        except (StorageError, OSError):
            raise  # what the run stands on is gone: no fault of the cell
        except Exception as error:  # a user's own network or method may raise anything
            return Failure(stage="train", reason=one_line(error), step=0)
        return trainee


def saved_layout(saved: dict[str, Any], current: Layout) -> Layout:
    """Return the layout that a saved training began in: it goes on in no other.

    Raises KtbenchError for work of an older ktbench, which began channels-last, where the
    `current` choice is another.
    """
    if "layout" in saved:
        return Layout(**saved["layout"])
    if not current.channels_last:
        reason = current.reason or "the layout is another now"
        raise KtbenchError(f"begun channels-last, but {reason}")
    return current


@dataclass(frozen=True)
class Cohort:
    """Trainees that share every batch, and what to call before each pass and step."""

    trainees: list[Trainee | Failure]
    trim_heap: Callable[[], None] = lambda: None


def cohorts(
    cells: Sequence[Cell], builder: TraineeBuilder, stream: Stream, budget: Callable[[], Budget]
) -> Iterator[Cohort]:
    """Yield the cells' trainees in cohorts that fit into the budget, each opened in its turn."""
    note = builder.context.note
    if len(cells) == 1:
        yield Cohort([builder.open(cells[0], note)])
        return
    trainees = _open_all_if_roomy(cells, builder, stream, budget)
    if trainees is not None:
        yield Cohort(trainees)
        return
    shared, needs = measure(cells, builder.build, stream, builder.context.teacher, builder.guard)
    now = budget()  # with what the first steps of a process load for good
    groups = split_by_memory(shared, needs, now.room)
    for line in notes_for_user(cells, shared, needs, groups, now):
        note(line)
    trim_heap = heap_trimmer(shared, needs, now, cells[0].numeric.device)
    for group in groups:
        yield Cohort([builder.open(cells[number], note) for number in group], trim_heap)


def _open_all_if_roomy(
    cells: Sequence[Cell], builder: TraineeBuilder, stream: Stream, budget: Callable[[], Budget]
) -> list[Trainee | Failure] | None:
    """Open all cells, unless a crude bound comes anywhere near the budget on the way."""
    trainees: list[Trainee | Failure] = []
    notes: list[str] = []
    bound, room = MemoryBound(stream), budget().room
    for cell in cells:
        trainee = builder.open(cell, notes.append)
        trainees.append(trainee)
        if isinstance(trainee, Trainee):
            with builder.guard.kept():
                size = bound.add(trainee)
            if ROOMY * size > room:
                return None
    for line in notes:
        builder.context.note(line)
    return trainees
