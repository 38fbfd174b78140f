"""The axes of a matrix with every name found: items, teachers, exports, devices."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, TypeVar

from pydantic import ValidationError

from ktbench import catalogue
from ktbench.devices._contract import host_objection
from ktbench.matrix.blockwise_students import of_teachers
from ktbench.matrix.document import KeyPath, Problem
from ktbench.matrix.errors import problems_of
from ktbench.matrix.items import METHODS, STUDENTS, Kind, variants
from ktbench.matrix.models import ItemEntry, Matrix, WindowGrid
from ktbench.matrix.teachers import Teachers
from ktbench.records import (
    BASELINE,
    DeviceSpec,
    Ensemble,
    ExportSpec,
    Item,
    Start,
    Teacher,
    TrainSpec,
    Window,
)

Value = TypeVar("Value", bound=Hashable)


@dataclass(frozen=True)
class Axes:
    """What a matrix multiplies."""

    students: tuple[Item, ...]
    methods: tuple[Item, ...]
    teachers: tuple[Teacher | Ensemble, ...]
    exports: tuple[ExportSpec, ...]
    devices: tuple[DeviceSpec, ...]
    views: tuple[int | None, ...] = (None,)
    """None stands for the views that a cell's own training asks for."""
    budgets: tuple[int | None, ...] = (None,)
    """None stands for the epochs that a cell's own training asks for."""
    windows: tuple[Window | None, ...] = (None,)
    """Of the methods that read a teacher; None is the whole training."""


@dataclass
class Finder:
    """Collects the problems that are met while the axes are worked out."""

    matrix: Matrix
    problems: list[Problem] = field(default_factory=list)
    teachers: tuple[Teacher, ...] = ()
    """Those of the matrix, ensembles left out, once `axes` has worked them out."""
    places: dict[str, KeyPath] = field(default_factory=dict)
    """Where each teacher stands in the file, by name."""
    _starts: dict[str, Start] = field(default_factory=dict)

    @property
    def base(self) -> str:
        """Folder that relative paths start from."""
        return self.matrix.origin.base

    def axes(self) -> Axes:
        """All axes; what is wrong with them is in `problems`."""
        matrix = self.matrix
        found = Teachers(self)
        taught_by = found.all()  # first, as students may be made of them
        self.teachers = tuple(t for t in taught_by if isinstance(t, Teacher))
        self.places = found.places
        self._refuse_pools(taught_by)
        students = self.items(STUDENTS, matrix.students, ("students",))
        methods = self.items(METHODS, matrix.methods, ("methods",))
        if BASELINE not in methods:
            methods = [BASELINE, *methods]
        for number, seed in repeated(matrix.seeds):
            self.say(("seeds", number), f"{seed} stands twice")
        views, budgets, windows = self._views(), self._budgets(), self._windows()
        if not matrix.teacher.keep:
            self.say(("teacher", "keep"), "must not be empty")
        exports = self._exports()
        devices = self._devices()
        if devices and not exports:
            self.say(("devices",), "there is nothing to measure: say what to export in exports")
        items = (tuple(students), tuple(methods), taught_by)
        return Axes(*items, exports, devices, views, budgets, windows)

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
        for number, views in repeated(matrix.views):
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

    def _budgets(self) -> tuple[int | None, ...]:
        """The axis of budgets; one member that changes nothing where there is none."""
        matrix = self.matrix
        for number, epochs in repeated(matrix.budget):
            self.say(("budget", number), f"{epochs} stands twice")
        for number, rule in enumerate(matrix.include if matrix.budget else ()):
            if "epochs" in rule.train:
                path: KeyPath = ("include", number, "train", "epochs")
                self.say(path, "budget is an axis of this matrix already: give one of the two")
        return matrix.budget or (None,)

    def _windows(self) -> tuple[Window | None, ...]:
        """The axis of windows; that of the whole training is None, whatever its scale."""
        found: dict[Window | None, None] = {}
        for number, grid in enumerate(self.matrix.distill):
            if not (grid.start and grid.end and grid.scale):
                self.say(("distill", number), "an empty list tries nothing")
            for start, end, scale in product(grid.start, grid.end, grid.scale):
                if start >= end:
                    message = f"start must be below end, not {start:g} and {end:g}"
                    self.say(("distill", number), message)
                    continue
                window = Window(start=start, end=end, scale=scale)
                known = None if window.whole else window
                if known in found and known is not None:
                    message = f"start {start:g}, end {end:g}, scale {scale} stands twice"
                    self.say(("distill", number), message)
                found[known] = None
        return tuple(found) or (None,)

    def _refuse_pools(self, teachers: Sequence[Teacher | Ensemble]) -> None:
        several = [teacher for teacher in teachers if isinstance(teacher, Ensemble)]
        if several and self.matrix.teacher.source == "pool":
            message = f"a pool serves one teacher, and {several[0].name} is several"
            self.say(("teacher", "source"), f"{message}: set source: live or cached")

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


def repeated(values: Sequence[Value]) -> Iterator[tuple[int, Value]]:
    """The values that stood before, each with its position."""
    seen: set[Value] = set()
    for number, value in enumerate(values):
        if value in seen:
            yield number, value
        seen.add(value)


def windows_of(grid: WindowGrid) -> list[Window | None]:
    """Every combination of a grid; that of the whole training is None, whatever its scale."""
    combined = product(grid.start, grid.end, grid.scale)
    windows = [Window(start=start, end=end, scale=scale) for start, end, scale in combined]
    return [None if window.whole else window for window in windows]


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
    if spec.host is not None and (reason := host_objection(spec.host)) is not None:
        return None, [Problem((name, "host"), reason)]
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
