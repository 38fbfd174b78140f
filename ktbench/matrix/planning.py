"""A matrix, worked out: every cell once, every impossible pair with its reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ktbench import catalogue
from ktbench.data import DataInfo, describe
from ktbench.matrix.axes import Axes, Finder, numeric_of
from ktbench.matrix.models import Matrix
from ktbench.matrix.rules import Draft, Rules
from ktbench.matrix.source import KeyPath, Problem
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
from transfer_methods._contract import Setting, TransferMethod


def checked(matrix: Matrix) -> list[Problem]:
    """Everything that can be wrong with a matrix before its data is looked at."""
    return _worked_out(matrix)[0].problems


def _worked_out(matrix: Matrix) -> tuple[Finder, Axes, list[Draft]]:
    finder = Finder(matrix)
    axes = finder.axes()
    drafts = [] if finder.problems else Rules(finder, axes).drafts()
    return finder, axes, drafts


def plan(matrix: Matrix) -> Plan:
    """The cells of a matrix in the order of the file, and the skips.

    Reads labels and one image of the data set, no more. Raises MatrixError.
    """
    finder, axes, drafts = _worked_out(matrix)
    if not finder.problems:
        judge = _Judge(matrix)
        finder.problems += judge.look_at_data(axes.teachers)
    if finder.problems:
        raise matrix.origin.error(finder.problems)
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
            numeric=numeric_of(matrix.numeric, draft.teacher),
            start=finder.start(draft.student),
        )
        reason = judge.reason(cell)
        if reason is None:
            cells.append(cell)
        else:
            skips.append(Skip(cell=cell, reason=reason))
    return Plan(
        name=matrix.name or Path(matrix.origin.file).stem,
        base=judge.base,
        cells=tuple(cells),
        skips=tuple(skips),
        exports=axes.exports,
        devices=axes.devices,
        source=matrix.teacher.spec,
        blockwise=matrix.blockwise.run,
    )


@dataclass
class _Judge:
    """Says why a cell cannot be trained, each question asked once."""

    matrix: Matrix
    _reasons: dict[tuple[str, str, str, str], str | None] = field(default_factory=dict)
    _outlines: dict[str, Outline | str] = field(default_factory=dict)
    _teachers: dict[str, str | None] = field(default_factory=dict)
    _infos: dict[str, DataInfo] = field(default_factory=dict)

    @property
    def base(self) -> str:
        """Absolute folder of the matrix file."""
        return str(Path(self.matrix.origin.base).absolute())

    def look_at_data(self, teachers: Sequence[Teacher]) -> list[Problem]:
        """What is wrong with the data of the students, else with that of a teacher."""
        places: list[tuple[KeyPath, DataSpec]] = [(("data",), self.matrix.data)]
        places += [(("teachers", i), teacher.cell.data) for i, teacher in enumerate(teachers)]
        problems = []
        for path, data in places:
            try:
                self._info(data)
            except KtbenchError as error:
                problems.append(Problem(path, str(error).removeprefix("data: ")))
                if data == self.matrix.data:
                    break
        return problems

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
        if cell.start is not None and (reason := self._teacher(cell.start.teacher)):
            return f"teacher {cell.start.teacher.name}: {reason}"
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
            num_classes=self._info(cell.data).num_classes,
            train_size=self._info(cell.data).train_size,
            batch_size=cell.train.batch_size,
        )
        return kind.incompatible(config, setting) or _unsampled(cell, kind, config)

    def _teacher(self, teacher: Teacher) -> str | None:
        """Why a teacher cannot be had, its own training included."""
        if teacher.canonical not in self._teachers:
            reason = self._answer(teacher.cell)
            self._teachers[teacher.canonical] = reason
        return self._teachers[teacher.canonical]

    def _outline(self, item: Item) -> Outline | str:
        if item.label not in self._outlines:
            info = self._info(self.matrix.data)
            try:
                found: Outline | str = outline(item, info.num_classes, info.shape, self.base)
            except KtbenchError as error:
                found = str(error)
            self._outlines[item.label] = found
        return self._outlines[item.label]

    def _info(self, data: DataSpec) -> DataInfo:
        if data.canonical not in self._infos:
            self._infos[data.canonical] = describe(data, Path(self.base))
        return self._infos[data.canonical]


def _unsampled(cell: Cell, kind: type[TransferMethod], config: object) -> str | None:
    """Why a method cannot learn from a sample of the teacher's softened logits, or None."""
    outputs = cell.numeric.outputs
    if outputs is None or outputs.sampled is None:
        return None
    if not kind.needs(config).only_logits:
        return "numeric.outputs.sampled leaves logits alone, and the method reads more"
    softened = kind.soft_targets(config)
    if softened is None:
        return (
            "numeric.outputs.sampled is unbiased only for methods that are linear in the teacher's "
            "softened probabilities, and this one is not"
        )
    if softened != outputs.temperature:
        return (
            f"the teacher is sampled at temperature {outputs.temperature:g} (numeric.outputs), and "
            f"the method softens with {softened:g}"
        )
    return None
