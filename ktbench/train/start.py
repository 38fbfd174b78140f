"""Lanes at their start or where they were stopped, as many together as the memory holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from ktbench.data import Dataset, Stream
from ktbench.isolation import Guard
from ktbench.networks.layout import Layout
from ktbench.networks.numeric import EVERYTHING
from ktbench.networks.weights import read_torch
from ktbench.records import Cell, Failure, KtbenchError, StorageError, one_line
from ktbench.students._contract import Features
from ktbench.supervision import mark
from ktbench.teacher.source import TeacherSource
from ktbench.train.memory_budget import Budget
from ktbench.train.memory_probe import ROOMY, Bound, measure, notes, split, tidier
from ktbench.train.trainee import Lane
from ktbench.transfer_methods._contract import Batch

Note = Callable[[str], None]
"""Takes one line that the user should see."""


@dataclass(frozen=True)
class Places:
    """Where a cell's files go; `root` is what the record's paths are relative to."""

    root: Path
    weights: Path
    curves: Path
    work: Path
    """The checkpoint of an unfinished training."""


@dataclass
class Opening:
    """What lanes are built from."""

    dataset: Dataset
    teacher: TeacherSource | None
    places: Callable[[Cell], Places]
    base: Path
    probe: Batch
    note: Note
    first_weights: Callable[[Cell], Path | None] = lambda _: None
    layouts: Callable[[Cell], Layout | None] = lambda _: None
    """How a cell's student is run; None: as its own layers decide."""
    guard: Guard = field(default_factory=Guard)
    _told: set[str] = field(default_factory=set)

    @cached_property
    def taught(self) -> Features | None:
        """The teacher's features of the probe: one copy for all lanes."""
        if self.teacher is None:
            return None
        with self.guard.kept(all_of_it=True):
            return self.teacher.outputs(self.probe, EVERYTHING)

    def tell(self, cell: Cell, changed: Sequence[str]) -> None:
        """Tell the user, once, which settings of the process a cell's code changes."""
        line = f"{cell.label}: its code changed {', '.join(changed)}: put back"
        if line not in self._told:
            self._told.add(line)
            self.note(line)

    def build(self, cell: Cell, asked: Layout | None = None) -> Lane:
        """A lane at its start; `asked` is the layout that an earlier run began it in."""
        taught, first, data = self.taught, self.first_weights(cell), self.dataset
        names = () if self.teacher is None else self.teacher.stage_names
        layout = asked or self.layouts(cell)
        with self.guard.containing(partial(self.tell, cell), all_of_it=True):
            return Lane(cell, data, self.base, self.probe, taught, names, first, layout)

    def open(self, cell: Cell, note: Note) -> Lane | Failure:
        """A lane at its start or at its last checkpoint; a Failure when it cannot be built."""
        work = self.places(cell).work
        mark(cell.key, "building the network and its method", cell.label)
        try:
            lane = self.build(cell)
            if work.exists():
                try:
                    saved = read_torch(work)
                    began = begun_in(saved, lane.layout)
                    if began.name != lane.layout.name:
                        lane = self.build(cell, began)
                    with self.guard.containing(all_of_it=True):
                        lane.restore(saved)
                except Exception as error:  # It is only saved work: training anew gives the same.
                    reason = f"its saved work does not fit ({one_line(error)})"
                    note(f"trains from the start: {cell.label}: {reason}")
                    lane = self.build(cell)
        except (StorageError, OSError):
            raise  # what the run stands on is gone: no fault of the cell
        except Exception as error:  # a user's own network or method may raise anything
            return Failure(stage="train", reason=one_line(error), step=0)
        return lane


def begun_in(saved: dict[str, Any], now: Layout) -> Layout:
    """The layout in which a training was begun that left this: it goes on in no other.

    Raises KtbenchError for work of an older ktbench where channels-last is not good enough `now`.
    """
    if "layout" in saved:
        return Layout(**saved["layout"])
    if not now.channels_last:
        raise KtbenchError(f"begun channels-last, but {now.reason or 'the layout is another now'}")
    return now


@dataclass(frozen=True)
class Cohort:
    """Lanes that share every batch, and what to call before each pass and step."""

    lanes: list[Lane | Failure]
    tidy: Callable[[], None] = lambda: None


def cohorts(
    cells: Sequence[Cell], opening: Opening, stream: Stream, budget: Callable[[], Budget]
) -> Iterator[Cohort]:
    """The cells' lanes in cohorts that fit into the budget, each opened when its turn comes."""
    if len(cells) == 1:
        yield Cohort([opening.open(cells[0], opening.note)])
        return
    lanes = _if_roomy(cells, opening, stream, budget)
    if lanes is not None:
        yield Cohort(lanes)
        return
    shared, needs = measure(cells, opening.build, stream, opening.teacher, opening.guard)
    now = budget()  # with what the first steps of a process load for good
    groups = split(shared, needs, now.room)
    for line in notes(cells, shared, needs, groups, now):
        opening.note(line)
    tidy = tidier(shared, needs, now, cells[0].numeric.device)
    for group in groups:
        yield Cohort([opening.open(cells[number], opening.note) for number in group], tidy)


def _if_roomy(
    cells: Sequence[Cell], opening: Opening, stream: Stream, budget: Callable[[], Budget]
) -> list[Lane | Failure] | None:
    """All lanes, unless a crude bound comes anywhere near the budget while they are opened."""
    lanes: list[Lane | Failure] = []
    said: list[str] = []
    bound, room = Bound(stream), budget().room
    for cell in cells:
        lane = opening.open(cell, said.append)
        lanes.append(lane)
        if isinstance(lane, Lane):
            with opening.guard.kept():
                size = bound.add(lane)
            if ROOMY * size > room:
                return None
    for line in said:
        opening.note(line)
    return lanes
