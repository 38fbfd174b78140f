"""Candidates of a search: the trained replacements of a teacher's blocks in a results folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from pydantic import JsonValue
from torch import nn

from ktbench import catalogue
from ktbench.blockwise import BlockStore, tasks_of
from ktbench.blockwise.blocks import build_blockwise
from ktbench.blockwise.gather import assemble
from ktbench.blockwise.splice import accuracy_of
from ktbench.blockwise.teacher_inputs import TeacherInputs
from ktbench.data import Dataset, Split
from ktbench.networks.layout import frozen
from ktbench.networks.weights import load_student
from ktbench.records import BlockResult, Cell, Item, KtbenchError, Plan, Teacher, digest_of
from ktbench.results import ResultsFolder
from ktbench.runner.blockwise.jobs import start_of
from ktbench.runner.data_jobs import dataset
from ktbench.students._blocks import KEEP, Block, Replacement, build_replacement
from ktbench.students._contract import Student

Labels = tuple[str, ...]
"""A label per block: of a replacement, or `keep`."""


@dataclass(frozen=True)
class Candidates:
    """The blocks of one teacher, and what was trained for each, for every seed."""

    root: Path
    base: Path
    cells: tuple[Cell, ...]
    """Cells by rising seed, one per seed."""
    blocks: tuple[Block, ...]
    """Every block of the network, in its order."""
    entries: tuple[Mapping[str, Replacement], ...]
    """Replacements trained for each block, by label."""
    results: Mapping[tuple[int, str, str], BlockResult]
    """Results by seed, block and label."""
    uniform: Mapping[str, tuple[Item, Labels]]
    """Students of the folder that put one replacement wherever it is smaller, by its label."""

    @property
    def taught_by(self) -> Teacher:
        """Teacher that the blocks belong to."""
        return start_of(self.cells[0]).teacher

    @cached_property
    def data(self) -> Dataset:
        """Data set of the students."""
        return dataset(self.cells[0].data, self.base)

    @cached_property
    def trained_on(self) -> Dataset:
        """Data set that the teacher learnt from."""
        return dataset(self.taught_by.cell.data, self.base)

    @cached_property
    def teacher(self) -> Student:
        """The trained teacher, from the copy beside the results."""
        cell = self.taught_by.cell
        files = sorted((self.root / "teachers").glob(f"{cell.key}-*.pt"))
        if len(files) != 1:
            raise KtbenchError(
                f"{self.root / 'teachers'}: {len(files)} files of teacher {self.taught_by.name} "
                "where one should be: run the matrix into a fresh folder"
            )
        return load_student(cell, files[0], base=self.base, **self.trained_on.dimensions)

    @cached_property
    def inputs(self) -> TeacherInputs:
        """The students' data as the teacher sees it."""
        cpu, layout = torch.device("cpu"), frozen(self.cells[0].numeric)
        return TeacherInputs(self.data, self.trained_on, cpu, layout)

    def trained(self, seed: int, block: Block, label: str) -> nn.Module:
        """Return a replacement with its trained weights."""
        entry = self.entries[self.blocks.index(block)][label]
        with torch.random.fork_rng(devices=[]):
            module = build_replacement(block, entry)
        store = BlockStore(self.root)
        module.load_state_dict(store.load(self.results[seed, block.name, label]))
        return module.eval()

    def item(self, choice: Labels) -> Item:
        """Return the student that a choice makes, as a matrix plans it."""
        student = self.cells[0].student
        settings = {k: v for k, v in student.settings.items() if k not in ("replace", "choice")}
        return student.model_copy(
            update={"settings": {**settings, "choice": self._written(choice)}}
        )

    def network(self, choice: Labels, cell: Cell) -> Student:
        """Assemble a choice from the blocks that the cell's seed trained."""
        chosen = cell.model_copy(update={"student": self.item(choice)})
        student = build_blockwise(chosen, base=self.base, **self.data.dimensions)
        store = BlockStore(self.root)
        weights = {
            block.name: store.load(self.results[cell.seed, block.name, label])
            for block, label in zip(self.blocks, choice, strict=True)
            if label != KEEP
        }
        assemble(student, self.teacher, weights)
        return student.eval()

    def accuracy(self, choice: Labels, split: Split) -> float:
        """Return the top-1 accuracy as assembled, the mean over seeds."""
        inputs = replace(self.inputs, trained_on=self.data)
        each = [accuracy_of(self.network(choice, cell), inputs, split) for cell in self.cells]
        return sum(each) / len(each)

    def _written(self, choice: Labels) -> list[JsonValue]:
        return [
            KEEP if label == KEEP else entry_of(entries[label])
            for entries, label in zip(self.entries, choice, strict=True)
        ]


def entry_of(entry: Replacement) -> JsonValue:
    """Return a replacement as a matrix names it."""
    name, settings = catalogue.named(entry)
    return {name: dict(settings)} if settings else name


def candidates_of(folder: ResultsFolder, plan: Plan, teacher: str | None = None) -> Candidates:
    """Return the trained blocks of a folder; KtbenchError where there are none to choose from.

    Of students with other blocks of the teacher, or other trainings of them, those that leave most
    to choose from.
    """
    starting = [cell for cell in plan.cells if cell.start is not None]
    names = list(dict.fromkeys(start_of(cell).teacher.name for cell in starting))
    if not names:
        raise KtbenchError(f"{folder.path}: its matrix has no students made of a teacher's blocks")
    if teacher is None and len(names) > 1:
        raise KtbenchError(f"blocks of several teachers: name one, --teacher {' or '.join(names)}")
    if teacher is not None and teacher not in names:
        raise KtbenchError(f"--teacher {teacher}: the folder has blocks of {', '.join(names)}")
    groups: dict[str, _Group] = {}
    for cell in starting:
        if start_of(cell).teacher.name == (teacher or names[0]):
            _add(groups, cell, folder.path, Path(plan.base))
    candidates = [group.candidates(folder.path, Path(plan.base)) for group in groups.values()]
    best = max(candidates, key=lambda one: sum(map(len, one.entries)))
    if not any(best.entries):
        raise KtbenchError(
            f"{folder.path}: no block was trained for all seeds yet: run its matrix first"
        )
    return best


class _Group:
    """Students of the same blocks, trained in the same way."""

    def __init__(self, blocks: tuple[Block, ...]) -> None:
        self.blocks = blocks
        self.cells: dict[int, Cell] = {}
        self.seen: set[tuple[int, str]] = set()
        self.entries: dict[str, dict[str, Replacement]] = {b.name: {} for b in blocks}
        self.results: dict[tuple[int, str, str], BlockResult] = {}
        self.items: dict[str, tuple[Item, dict[str, str]]] = {}

    def candidates(self, root: Path, base: Path) -> Candidates:
        """Return the replacements that every seed has trained."""
        complete = tuple(
            {
                label: entry
                for label, entry in sorted(self.entries[block.name].items())
                if all((seed, block.name, label) in self.results for seed in self.cells)
            }
            for block in self.blocks
        )
        uniform = {}
        for label, (item, chosen) in self.items.items():
            choice = tuple(chosen.get(block.name, KEEP) for block in self.blocks)
            pairs = zip(choice, complete, strict=True)
            if all(chosen_label in (KEEP, *labels) for chosen_label, labels in pairs):
                uniform[label] = (item, choice)
        cells = tuple(self.cells[seed] for seed in sorted(self.cells))
        return Candidates(root, base, cells, self.blocks, complete, self.results, uniform)


def _add(groups: dict[str, _Group], cell: Cell, root: Path, base: Path) -> None:
    data = dataset(cell.data, base)
    student = build_blockwise(cell, base=base, **data.dimensions)
    train = start_of(cell).train.model_dump(mode="json", exclude={"keep_within"})
    paths = [list(block.paths) for block in student.blocks]
    key = digest_of([start_of(cell).teacher.canonical, train, cell.numeric.canonical, paths])
    group = groups.setdefault(key, _Group(student.blocks))
    if (cell.seed, cell.student.canonical) in group.seen:
        return
    group.seen.add((cell.seed, cell.student.canonical))
    group.cells.setdefault(cell.seed, cell)
    tasks = tasks_of(cell, base=base, **data.dimensions)
    for task in tasks:
        result = BlockStore(root).find(task.key)
        if result is not None:
            group.entries[task.name].setdefault(task.replacement, task.entry)
            group.results[cell.seed, task.name, task.replacement] = result
    if tasks and not cell.student.settings.get("choice"):
        chosen = {task.name: task.replacement for task in tasks}
        group.items.setdefault(tasks[0].replacement, (cell.student, chosen))
