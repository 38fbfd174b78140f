"""The axes of a matrix with every name found: items, teachers, exports, devices."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ktbench import catalogue
from ktbench.catalogue import nearest
from ktbench.matrix.errors import problems_of
from ktbench.matrix.items import METHODS, STUDENTS, Kind, variants
from ktbench.matrix.made import of_teachers
from ktbench.matrix.models import ItemEntry, Matrix, TeacherEntry
from ktbench.matrix.source import KeyPath, Problem
from ktbench.records import (
    BASELINE,
    Cell,
    DataSpec,
    DeviceSpec,
    ExportSpec,
    Item,
    NumericSpec,
    Start,
    Teacher,
    TeacherOutputs,
    TrainSpec,
)


@dataclass(frozen=True)
class Axes:
    """What a matrix multiplies."""

    students: tuple[Item, ...]
    methods: tuple[Item, ...]
    teachers: tuple[Teacher, ...]
    exports: tuple[ExportSpec, ...]
    devices: tuple[DeviceSpec, ...]
    views: tuple[int | None, ...] = (None,)
    """None stands for the views that a cell's own training asks for."""


@dataclass
class Finder:
    """Collects the problems that are met while the axes are worked out."""

    matrix: Matrix
    problems: list[Problem] = field(default_factory=list)
    teachers: tuple[Teacher, ...] = ()
    """Those of the matrix, once `axes` has worked them out."""
    _starts: dict[str, Start] = field(default_factory=dict)

    @property
    def base(self) -> str:
        """Folder that relative paths start from."""
        return self.matrix.origin.base

    def axes(self) -> Axes:
        """All axes; what is wrong with them is in `problems`."""
        matrix = self.matrix
        self.teachers = _Teachers(self).all()  # first, as students may be made of them
        students = self.items(STUDENTS, matrix.students, ("students",))
        methods = self.items(METHODS, matrix.methods, ("methods",))
        if BASELINE not in methods:
            methods = [BASELINE, *methods]
        for number, seed in enumerate(matrix.seeds):
            if seed in matrix.seeds[:number]:
                self.say(("seeds", number), f"{seed} stands twice")
        views = self._views()
        if not matrix.teacher.keep:
            self.say(("teacher", "keep"), "must not be empty")
        exports = self._exports()
        devices = self._devices()
        if devices and not exports:
            self.say(("devices",), "there is nothing to measure: say what to export in exports")
        return Axes(tuple(students), tuple(methods), self.teachers, exports, devices, views)

    def say(self, path: KeyPath, message: str) -> None:
        """Note a problem."""
        self.problems.append(Problem(path, message))

    def items(self, kind: Kind, entries: Sequence[ItemEntry], path: KeyPath) -> list[Item]:
        """Every variant of every entry; the same one twice is a problem."""
        found: dict[str, tuple[Item, int]] = {}
        for number, entry in enumerate(entries):
            for item in self.variants(kind, entry, (*path, number)):
                if item.label in found:
                    first = found[item.label][1]
                    where = "twice here" if first == number else f"in {path[-1]}[{first}] too"
                    self.say((*path, number), f"{item.label} stands {where}")
                found[item.label] = (item, number)
        return [item for item, _ in found.values()]

    def variants(self, kind: Kind, entry: ItemEntry, path: KeyPath) -> list[Item]:
        """As `items.variants`, the problems noted."""
        setting = catalogue.teacher_setting(entry.name) if kind is STUDENTS else None
        if setting is None:
            items, problems = variants(kind, entry, self.base)
        elif self.matrix.teachers and not self.teachers:
            return []  # what is wrong with them is told
        else:
            items, problems = of_teachers(entry, setting, self.teachers, self.base)
        self.problems += [problem.under(*path) for problem in problems]
        return items

    def start(self, student: Item) -> Start | None:
        """Where a student's first weights come from, if not from its seed."""
        setting = catalogue.teacher_setting(student.name)
        if setting is None:
            return None
        name = str(student.settings[setting])
        if name not in self._starts:
            teacher = next(teacher for teacher in self.teachers if teacher.name == name)
            self._starts[name] = Start(teacher=teacher, train=self.matrix.blockwise.train)
        return self._starts[name]

    def _views(self) -> tuple[int | None, ...]:
        """The axis of views; one member that changes nothing where there is none."""
        matrix = self.matrix
        for number, views in enumerate(matrix.views):
            if views in matrix.views[:number]:
                self.say(("views", number), f"{views} stands twice")
        changes: list[tuple[KeyPath, object]] = [(("train", "views"), matrix.train.views)]
        changes += [
            (("include", i, "train", "views"), rule.train.get("views"))
            for i, rule in enumerate(matrix.include)
        ]
        for path, given in changes if matrix.views else ():
            if given is not None:
                self.say(path, "views is an axis of this matrix already: give one of the two")
        return tuple(None if views == "fresh" else views for views in matrix.views) or (None,)

    def train(self, changes: dict[str, Any], path: KeyPath) -> TrainSpec:
        """The matrix's training with some settings changed."""
        return self._changed(self.matrix.train, changes, path)

    def teacher_train(self, changes: dict[str, Any], path: KeyPath) -> TrainSpec:
        """A teacher's: the students' views are not its own."""
        before = self.matrix.train.model_copy(update={"views": None})
        return self._changed(before, changes, path)

    def _changed(self, before: TrainSpec, changes: dict[str, Any], path: KeyPath) -> TrainSpec:
        try:
            return TrainSpec.model_validate({**before.model_dump(), **changes})
        except ValidationError as error:
            self.problems += [p.under(*path) for p in problems_of(error, TrainSpec)]
            return before

    def _exports(self) -> tuple[ExportSpec, ...]:
        found: dict[str, ExportSpec] = {}
        for number, grid in enumerate(self.matrix.exports):
            if not (grid.formats and grid.precisions and grid.batch and grid.opset):
                self.say(("exports", number), "an empty list exports nothing")
            for spec in _grid_specs(grid):
                if spec.label in found:
                    self.say(("exports", number), f"{spec.label} stands twice")
                found[spec.label] = spec
        return tuple(found.values())

    def _devices(self) -> tuple[DeviceSpec, ...]:
        found: dict[str, DeviceSpec] = {}
        for number, entry in enumerate(self.matrix.devices):
            spec = self._device(entry, ("devices", number))
            if spec is not None and spec.name in found:
                message = f"two devices are called {spec.name!r}: give one another name"
                self.say(("devices", number, entry.name), message)
            elif spec is not None:
                found[spec.name] = spec
        return tuple(found.values())

    def _device(self, entry: ItemEntry, path: KeyPath) -> DeviceSpec | None:
        spec, problems = device_spec(entry)
        self.problems += [problem.under(*path) for problem in problems]
        return spec


def device_spec(entry: ItemEntry) -> tuple[DeviceSpec | None, list[Problem]]:
    """The device that an entry stands for; problems are told by path below the entry."""
    name = entry.name
    try:
        profile = catalogue.device(name)
    except catalogue.UnknownName as error:
        hint = "" if error.nearest else f"; a host of yours is `ssh: {{host: {name}}}`"
        return None, [Problem((name,), f"{error}{hint}")]
    settings = dict(entry.settings)
    if "threads" in settings and not isinstance(settings["threads"], list):
        settings["threads"] = [settings["threads"]]
    settings.setdefault("name", settings.get("host") or name)
    try:
        spec = DeviceSpec.model_validate({"profile": name, **settings})
    except ValidationError as error:
        problems = problems_of(error, DeviceSpec)
        return None, [problem.under(name) for problem in problems]
    if "profile" in entry.settings:
        return None, [Problem((name, "profile"), f"the profile is {name!r} already")]
    if profile.transport == "ssh" and spec.host is None:
        return None, [Problem((name,), "needs a host: a name or an alias of your SSH config")]
    if profile.transport == "local" and spec.host is not None:
        return None, [Problem((name, "host"), f"{name} is this machine: it takes no host")]
    return spec, []


def _grid_specs(grid: Any) -> Iterable[ExportSpec]:
    """Every combination; the opset concerns ONNX alone."""
    for form in grid.formats:
        for precision in grid.precisions:
            for batch in grid.batch:
                for opset in grid.opset if form == "onnx" else (18,):
                    yield ExportSpec(format=form, precision=precision, batch=batch, opset=opset)


class _Teachers:
    """Teachers in the order of the file, each after the one that taught it."""

    def __init__(self, finder: Finder) -> None:
        self.finder = finder
        self.entries: dict[str, tuple[int, TeacherEntry, Item]] = {}
        self.done: dict[str, Teacher | None] = {}
        self.open: list[str] = []

    def all(self) -> tuple[Teacher, ...]:
        """Every teacher that could be worked out."""
        for number, entry in enumerate(self.finder.matrix.teachers):
            item = self._single(STUDENTS, entry.student, ("teachers", number, "student"))
            if item is None:
                continue
            name = entry.name or item.label
            if name in self.entries:
                message = f"two teachers are called {name!r}: give one another name"
                self.finder.say(("teachers", number), message)
            self.entries.setdefault(name, (number, entry, item))
        found = [self._teacher(name) for name in self.entries]
        return tuple(teacher for teacher in found if teacher is not None)

    def _single(self, kind: Kind, entry: ItemEntry, path: KeyPath) -> Item | None:
        if kind is STUDENTS and catalogue.teacher_setting(entry.name) is not None:
            message = "it is made of a teacher itself, and cannot be one: name a network"
            self.finder.say((*path, entry.name), message)
            return None
        items = self.finder.variants(kind, entry, path)
        if len(items) > 1:
            message = f"a teacher is one network, not {len(items)}: give one value per setting"
            self.finder.say((*path, entry.name), message)
        return items[0] if len(items) == 1 else None

    def _teacher(self, name: str) -> Teacher | None:
        if name in self.done:
            return self.done[name]
        number, entry, student = self.entries[name]
        path: KeyPath = ("teachers", number)
        method = self._single(METHODS, entry.method, (*path, "method"))
        self.open.append(name)
        above = self._above(entry, method, path)
        self.open.pop()
        train = self.finder.teacher_train(entry.train, (*path, "train"))
        data = self.finder.matrix.data
        if "train_size" in entry.model_fields_set:
            values = {**data.model_dump(), "train_size": entry.train_size}
            data = DataSpec.model_validate(values)
        cell = Cell(
            data=data,
            student=student,
            method=method or BASELINE,
            teacher=above,
            seed=entry.seed,
            train=train,
            numeric=numeric_of(self.finder.matrix.numeric, above),
        )
        digest = self._digest(entry, path)
        self.done[name] = Teacher(
            name=name, cell=cell, checkpoint=entry.checkpoint, checkpoint_digest=digest
        )
        return self.done[name]

    def _above(self, entry: TeacherEntry, method: Item | None, path: KeyPath) -> Teacher | None:
        """The teacher of a teacher."""
        if method is None:
            return None
        reads = reads_teacher(method, self.finder.base)
        if entry.teacher is None:
            if reads:
                self.finder.say(path, f"method {method.name} needs a teacher: name it in teacher")
            return None
        if not reads:
            message = f"method {method.name} reads no teacher: name one that does in method"
            self.finder.say((*path, "teacher"), message)
        elif entry.teacher in self.open:
            chain = " ← ".join([*self.open[self.open.index(entry.teacher) :], entry.teacher])
            self.finder.say((*path, "teacher"), f"teachers teach each other in a circle: {chain}")
        elif entry.teacher not in self.entries:
            close = nearest(entry.teacher, self.entries)
            hint = f"did you mean {' or '.join(close)}?" if close else "name it in teachers"
            self.finder.say((*path, "teacher"), f"no teacher is called {entry.teacher!r}: {hint}")
        else:
            return self._teacher(entry.teacher)
        return None

    def _digest(self, entry: TeacherEntry, path: KeyPath) -> str | None:
        if entry.checkpoint is None:
            return None
        file = Path(self.finder.base, entry.checkpoint)
        try:
            with file.open("rb") as stream:
                return hashlib.file_digest(stream, "sha256").hexdigest()[:16]
        except OSError as error:
            reason = error.strerror or "cannot be read"
            self.finder.say((*path, "checkpoint"), f"{file}: {reason.lower()}")
            return None


def reads_teacher(item: Item, base: str) -> bool:
    """Whether a method reads anything of a teacher."""
    kind = catalogue.method(item.name, base)
    return bool(kind.needs(catalogue.method_config(item.name, item.settings, base)))


def numeric_of(numeric: NumericSpec, teacher: Teacher | None) -> NumericSpec:
    """A cell's numeric settings: what changes nothing for it is not in its key."""
    outputs = numeric.outputs
    if outputs is None:
        return numeric
    if teacher is None or (outputs.sampled is None and outputs.precision == "fp32"):
        return numeric.model_copy(update={"outputs": None})
    if outputs.sampled is None:
        return numeric.model_copy(update={"outputs": TeacherOutputs(precision=outputs.precision)})
    return numeric.model_copy(update={"outputs": outputs.model_copy(update={"precision": "fp32"})})
