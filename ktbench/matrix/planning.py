"""A matrix, worked out: every cell once, every impossible pair with its reason."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from ktbench import catalogue
from ktbench.data import DataInfo, describe
from ktbench.matrix.axes import Finder
from ktbench.matrix.models import Matrix
from ktbench.matrix.rules import Draft, Rules
from ktbench.matrix.source import Problem
from ktbench.networks import Outline, outline
from ktbench.records import (
    Cell,
    DataSpec,
    Item,
    KtbenchError,
    Plan,
    Skip,
    Teacher,
)
from transfer_methods._contract import Setting


def checked(matrix: Matrix) -> list[Problem]:
    """Everything that can be wrong with a matrix before its data is looked at."""
    return _worked_out(matrix)[0].problems


def _worked_out(matrix: Matrix) -> tuple[Finder, list[Draft], Plan]:
    finder = Finder(matrix)
    axes = finder.axes()
    drafts = [] if finder.problems else Rules(finder, axes).drafts()
    frame = Plan(
        name=matrix.name or Path(matrix.origin.file).stem,
        base=str(Path(matrix.origin.base).absolute()),
        cells=(),
        exports=axes.exports,
        devices=axes.devices,
    )
    return finder, drafts, frame


def plan(matrix: Matrix) -> Plan:
    """The cells of a matrix in the order of the file, and the skips.

    Reads labels and one image of the data set, no more. Raises MatrixError.
    """
    finder, drafts, frame = _worked_out(matrix)
    if finder.problems:
        raise matrix.origin.error(finder.problems)
    try:
        judge = _Judge(matrix, frame.base)
        judge.read_sizes(draft.teacher for draft in drafts)
    except KtbenchError as error:
        message = str(error).removeprefix("data: ")
        raise matrix.origin.error([Problem(("data",), message)]) from error
    cells: list[Cell] = []
    skips: list[Skip] = []
    for draft in drafts:
        cell = Cell(
            data=matrix.data,
            student=draft.student,
            method=draft.method,
            teacher=draft.teacher,
            seed=draft.seed,
            train=draft.train,
            numeric=matrix.numeric,
        )
        reason = judge.reason(cell)
        if reason is None:
            cells.append(cell)
        else:
            skips.append(Skip(cell=cell, reason=reason))
    return frame.model_copy(update={"cells": tuple(cells), "skips": tuple(skips)})


@dataclass
class _Judge:
    """Says why a cell cannot be trained, each question asked once."""

    matrix: Matrix
    base: str
    _reasons: dict[tuple[str, str, str, str], str | None] = field(default_factory=dict)
    _outlines: dict[str, Outline | str] = field(default_factory=dict)
    _teachers: dict[str, str | None] = field(default_factory=dict)
    _sizes: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.data: DataInfo = describe(self.matrix.data, Path(self.base))
        self._sizes[self.matrix.data.canonical] = self.data.train_size

    def read_sizes(self, teachers: Iterable[Teacher | None]) -> None:
        """Look at the data of every teacher, so that too large a `train_size` is told now."""
        for teacher in {id(t): t for t in teachers if t is not None}.values():
            above: Teacher | None = teacher
            while above is not None:
                self._train_size(above.cell.data)
                above = above.cell.teacher

    def reason(self, cell: Cell) -> str | None:
        """In one sentence, or None for a cell that can be trained."""
        question = (
            cell.student.label,
            cell.method.label,
            cell.teacher.canonical if cell.teacher else "",
            cell.train.canonical,
        )
        if question not in self._reasons:
            self._reasons[question] = self._answer(cell)
        return self._reasons[question]

    def _answer(self, cell: Cell) -> str | None:
        if cell.teacher is not None and (reason := self._teacher(cell.teacher)):
            return f"teacher {cell.teacher.name}: {reason}"
        student = self._outline(cell.student)
        if isinstance(student, str):
            return student
        teacher = self._outline(cell.teacher.cell.student) if cell.teacher else None
        assert not isinstance(teacher, str)
        kind = catalogue.method(cell.method.name, self.base)
        config = catalogue.method_config(cell.method.name, cell.method.settings, self.base)
        setting = Setting(
            student=student.shapes,
            teacher=teacher.shapes if teacher else None,
            num_classes=self.data.num_classes,
            train_size=self._train_size(cell.data),
            batch_size=cell.train.batch_size,
        )
        return kind.incompatible(config, setting)

    def _teacher(self, teacher: Teacher) -> str | None:
        """Why a teacher cannot be had, its own training included."""
        if teacher.canonical not in self._teachers:
            reason = self._answer(teacher.cell)
            self._teachers[teacher.canonical] = reason
        return self._teachers[teacher.canonical]

    def _outline(self, item: Item) -> Outline | str:
        if item.label not in self._outlines:
            try:
                found: Outline | str = outline(
                    item, self.data.num_classes, self.data.shape, self.base
                )
            except KtbenchError as error:
                found = str(error)
            self._outlines[item.label] = found
        return self._outlines[item.label]

    def _train_size(self, data: DataSpec) -> int:
        key = data.canonical
        if key not in self._sizes:
            self._sizes[key] = describe(data, Path(self.base)).train_size
        return self._sizes[key]
