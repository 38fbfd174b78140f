"""Axes of a matrix with every name resolved: items, teachers, exports, devices."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, TypeVar

from pydantic import ValidationError

from ktbench import catalogue
from ktbench.devices._contract import host_objection
from ktbench.matrix.exports import export_specs
from ktbench.matrix.file_problems import KeyPath, Problem, problems_of
from ktbench.matrix.items import METHODS, STUDENTS, Kind, of_teachers, variants
from ktbench.matrix.models import FileStart, ItemEntry, Matrix, WindowGrid
from ktbench.matrix.teachers import Teachers
from ktbench.matrix.weights_files import FRESH, StartPoint, start_points
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
    """The lists whose product is the cells of a matrix."""

    students: tuple[Item, ...]
    methods: tuple[Item, ...]
    teachers: tuple[Teacher | Ensemble, ...]
    exports: tuple[ExportSpec, ...]
    devices: tuple[DeviceSpec, ...]
    views: tuple[int | None, ...] = (None,)
    """Numbers of views; None stands for that of the cell's own training."""
    budgets: tuple[int | None, ...] = (None,)
    """Numbers of epochs; None stands for that of the cell's own training."""
    windows: tuple[Window | None, ...] = (None,)
    """Windows of the methods that read a teacher; None is the whole training."""
    starts: tuple[StartPoint, ...] = (FRESH,)
    """Origins of the first weights."""


@dataclass
class AxesResolver:
    """Resolves the axes of a matrix, and collects the problems met on the way."""

    matrix: Matrix
    problems: list[Problem] = field(default_factory=list)
    teachers: tuple[Teacher, ...] = ()
    """Single teachers of the matrix, ensembles left out, once `axes` has resolved them."""
    places: dict[str, KeyPath] = field(default_factory=dict)
    """Key path of each teacher in the file, by name."""
    _starts: dict[str, Start] = field(default_factory=dict)

    @property
    def base(self) -> str:
        """Folder that relative paths start from."""
        return self.matrix.origin.base

    def axes(self) -> Axes:
        """Resolve all axes; their errors are in `problems`."""
        matrix = self.matrix
        resolved = Teachers(self)
        teachers = resolved.all()  # first, as students may be made of them
        self.teachers = tuple(t for t in teachers if isinstance(t, Teacher))
        self.places = resolved.places
        self._refuse_pools(teachers)
        students = self.items(STUDENTS, matrix.students, ("students",))
        methods = self.items(METHODS, matrix.methods, ("methods",))
        if BASELINE not in methods:
            methods = [BASELINE, *methods]
        for number, seed in repeated(matrix.all_seeds):
            self.add_problem(("seeds", number), f"{seed} is listed twice")
        views, budgets, windows = self._views(), self._budgets(), self._windows()
        starts = tuple(self.starts(matrix.start, ("start",))) or (FRESH,)
        if not matrix.teacher.keep:
            self.add_problem(("teacher", "keep"), "must not be empty")
        devices = self._devices()
        exports = self._exports(devices)
        if devices and not exports:
            self.add_problem(
                ("devices",), "there is nothing to measure: say what to export in exports"
            )
        items = (tuple(students), tuple(methods), teachers)
        return Axes(*items, exports, devices, views, budgets, windows, starts)

    def add_problem(self, path: KeyPath, message: str) -> None:
        """Add a problem."""
        self.problems.append(Problem(path, message))

    def items(self, kind: Kind, entries: Sequence[ItemEntry], path: KeyPath) -> list[Item]:
        """Return every variant of every entry; a repeated one is a problem."""
        by_label: dict[str, tuple[Item, int]] = {}
        for number, entry in enumerate(entries):
            for item in self.variants(kind, entry, (*path, number)):
                if item.label in by_label:
                    first = by_label[item.label][1]
                    where = (
                        "listed twice here" if first == number else f"in {path[-1]}[{first}] too"
                    )
                    self.add_problem((*path, number), f"{item.label} is {where}")
                by_label[item.label] = (item, number)
        return [item for item, _ in by_label.values()]

    def variants(self, kind: Kind, entry: ItemEntry, path: KeyPath) -> list[Item]:
        """Call `items.variants` and collect its problems."""
        setting = catalogue.teacher_setting(entry.name) if kind is STUDENTS else None
        if setting is None:
            items, problems = variants(kind, entry, self.base)
        elif self.matrix.teachers and not self.teachers:
            return []  # their own errors are reported
        else:
            items, problems = of_teachers(entry, setting, self.teachers, self.base)
        self.problems += [problem.under(*path) for problem in problems]
        return items

    def starts(self, entries: Sequence[str | FileStart], path: KeyPath) -> list[StartPoint]:
        """Return what entries of a `start` stand for, and collect their problems."""
        points, problems = start_points(entries, self.base, path)
        self.problems += problems
        return points

    def start(self, student: Item) -> Start | None:
        """Return the assembly that a student starts from, or None for weights of its seed."""
        if catalogue.from_blocks(student.name, student.settings) is not None:
            return None
        return self._start(student)

    def controlled_start(self, student: Item) -> Start | None:
        """Return the assembly of the student that a control is compared with, else None."""
        if catalogue.from_blocks(student.name, student.settings) is None:
            return None
        return self._start(student)

    def _start(self, student: Item) -> Start | None:
        setting = catalogue.teacher_setting(student.name)
        if setting is None:
            return None
        name = str(student.settings[setting])
        if name not in self._starts:
            teacher = next(teacher for teacher in self.teachers if teacher.name == name)
            self._starts[name] = Start(teacher=teacher, train=self.matrix.blockwise.train)
        return self._starts[name]

    def _views(self) -> tuple[int | None, ...]:
        """Axis of views; without one, a single member that changes nothing."""
        matrix = self.matrix
        for number, views in repeated(matrix.views):
            self.add_problem(("views", number), f"{views} is listed twice")
        changes: list[tuple[KeyPath, object]] = [(("train", "views"), matrix.train.views)]
        changes += [
            (("include", i, "train", "views"), rule.train.get("views"))
            for i, rule in enumerate(matrix.include)
        ]
        for path, change in changes if matrix.views else ():
            if change is not None:
                self.add_problem(
                    path, "views is an axis of this matrix already: give one of the two"
                )
        return tuple(None if views == "fresh" else views for views in matrix.views) or (None,)

    def _budgets(self) -> tuple[int | None, ...]:
        """Axis of budgets; without one, a single member that changes nothing."""
        matrix = self.matrix
        for number, epochs in repeated(matrix.budget):
            self.add_problem(("budget", number), f"{epochs} is listed twice")
        for number, rule in enumerate(matrix.include if matrix.budget else ()):
            if "epochs" in rule.train:
                path: KeyPath = ("include", number, "train", "epochs")
                self.add_problem(
                    path, "budget is an axis of this matrix already: give one of the two"
                )
        return matrix.budget or (None,)

    def _windows(self) -> tuple[Window | None, ...]:
        """Axis of windows; the window of the whole training is None, whatever its scale."""
        windows: dict[Window | None, None] = {}
        for number, grid in enumerate(self.matrix.distill):
            if not (grid.start and grid.end and grid.scale):
                self.add_problem(("distill", number), "an empty list tries nothing")
            for start, end, scale in product(grid.start, grid.end, grid.scale):
                if start >= end:
                    message = f"start must be below end, not {start:g} and {end:g}"
                    self.add_problem(("distill", number), message)
                    continue
                window = Window(start=start, end=end, scale=scale)
                member = None if window.whole else window
                if member in windows and member is not None:
                    message = f"start {start:g}, end {end:g}, scale {scale} is listed twice"
                    self.add_problem(("distill", number), message)
                windows[member] = None
        return tuple(windows) or (None,)

    def _refuse_pools(self, teachers: Sequence[Teacher | Ensemble]) -> None:
        several = [teacher for teacher in teachers if isinstance(teacher, Ensemble)]
        if several and self.matrix.teacher.source == "pool":
            message = f"a pool serves one teacher, and {several[0].name} is several"
            self.add_problem(("teacher", "source"), f"{message}: set source: live or cached")

    def train(self, changes: dict[str, Any], path: KeyPath) -> TrainSpec:
        """Return the matrix's training with some settings changed."""
        return self._changed(self.matrix.train, changes, path)

    def teacher_train(self, changes: dict[str, Any], path: KeyPath) -> TrainSpec:
        """Return the training of a teacher, which does not share the students' views."""
        before = self.matrix.train.model_copy(update={"views": None})
        return self._changed(before, changes, path)

    def _changed(self, before: TrainSpec, changes: dict[str, Any], path: KeyPath) -> TrainSpec:
        try:
            return TrainSpec.model_validate({**before.model_dump(), **changes})
        except ValidationError as error:
            self.problems += [p.under(*path) for p in problems_of(error, TrainSpec)]
            return before

    def _exports(self, devices: Sequence[DeviceSpec]) -> tuple[ExportSpec, ...]:
        by_label: dict[str, ExportSpec] = {}
        for number, grid in enumerate(self.matrix.exports):
            if not (grid.formats and grid.precisions and grid.batch and grid.opset):
                self.add_problem(("exports", number), "an empty list exports nothing")
            for spec in export_specs(grid, devices):
                if spec.label in by_label:
                    self.add_problem(("exports", number), f"{spec.label} is listed twice")
                by_label[spec.label] = spec
        return tuple(by_label.values())

    def _devices(self) -> tuple[DeviceSpec, ...]:
        by_name: dict[str, DeviceSpec] = {}
        for number, entry in enumerate(self.matrix.devices):
            spec, problems = device_spec(entry)
            self.problems += [problem.under("devices", number) for problem in problems]
            if spec is not None and spec.name in by_name:
                message = f"two devices are called {spec.name!r}: give one another name"
                self.add_problem(("devices", number, entry.name), message)
            elif spec is not None:
                by_name[spec.name] = spec
        return tuple(by_name.values())


def repeated(values: Sequence[Value]) -> Iterator[tuple[int, Value]]:
    """Yield each value that occurs again, with its position."""
    seen: set[Value] = set()
    for number, value in enumerate(values):
        if value in seen:
            yield number, value
        seen.add(value)


def windows_of(grid: WindowGrid) -> list[Window | None]:
    """Return every combination of a grid; the whole training is None, whatever its scale."""
    combined = product(grid.start, grid.end, grid.scale)
    windows = [Window(start=start, end=end, scale=scale) for start, end, scale in combined]
    return [None if window.whole else window for window in windows]


def device_spec(entry: ItemEntry) -> tuple[DeviceSpec | None, list[Problem]]:
    """Return the device of an entry; the paths of problems start below the entry."""
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
