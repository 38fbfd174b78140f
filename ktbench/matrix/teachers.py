"""Teachers of a matrix: single ones, lists of them, and ensembles."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import product
from typing import Any, Protocol

from pydantic import JsonValue

from ktbench import catalogue
from ktbench.catalogue import nearest
from ktbench.matrix.cell_settings import numeric_of, reads_teacher, with_warmup
from ktbench.matrix.file_problems import KeyPath
from ktbench.matrix.items import METHODS, STUDENTS, Kind
from ktbench.matrix.models import ItemEntry, Matrix, TeacherEntry
from ktbench.matrix.preprocess_entry import preprocessing
from ktbench.matrix.weights_files import file_digest, weights_file
from ktbench.records import (
    BASELINE,
    Cell,
    DataSpec,
    Ensemble,
    Item,
    KtbenchError,
    Preprocessing,
    Teacher,
    TrainSpec,
    WeightsFile,
)
from ktbench.system.files import named_path

LONGEST_CHAIN = 32
"""Longest chain of teachers that teach each other."""
NAMED = 4
"""Most members that the name of an ensemble lists."""


class Resolver(Protocol):
    """The part of `AxesResolver` that teachers need."""

    matrix: Matrix

    @property
    def base(self) -> str:
        """Folder that relative paths start from."""

    def add_problem(self, path: KeyPath, message: str) -> None:
        """Add a problem."""

    def variants(self, kind: Kind, entry: ItemEntry, path: KeyPath) -> list[Item]:
        """Return the items that an entry stands for."""

    def teacher_train(self, changes: dict[str, Any], path: KeyPath) -> TrainSpec:
        """Return the matrix's training with a teacher's changes."""


@dataclass(frozen=True)
class _Draft:
    """One network of an entry, with one choice of settings, training and seed."""

    path: KeyPath
    entry: TeacherEntry
    student: Item
    train: dict[str, JsonValue]
    seed: int


class Teachers:
    """Resolves teachers in the order of the file, each after the one that taught it."""

    def __init__(self, resolver: Resolver) -> None:
        self.resolver = resolver
        self.places: dict[str, KeyPath] = {}
        """Key path of each teacher in the file, by name."""
        self._drafts: dict[str, _Draft] = {}
        self._teachers: dict[str, Teacher | None] = {}
        self._in_progress: list[str] = []

    def all(self) -> tuple[Teacher | Ensemble, ...]:
        """Return all teachers without errors; inline members of an ensemble belong to it alone."""
        entries = self.resolver.matrix.teachers
        names = {n: self._register(e, ("teachers", n)) for n, e in enumerate(entries) if not e.of}
        teachers: list[Teacher | Ensemble] = []
        for number, entry in enumerate(entries):
            if entry.of:
                teachers += self._ensembles(entry, ("teachers", number))
            else:
                teachers += self._resolved(names[number])
        return tuple(teachers)

    def _resolved(self, names: Sequence[str]) -> list[Teacher]:
        teachers = [self._teacher(name) for name in names]
        return [teacher for teacher in teachers if teacher is not None]

    # ------------------------------------------------------------ entries

    def _register(self, entry: TeacherEntry, path: KeyPath) -> list[str]:
        """Draft the teachers that an entry stands for, and return their names."""
        assert entry.student is not None
        items = self._networks(entry.student, (*path, "student"))
        names = []
        for draft, name in _drafts(entry, items, path):
            if name in self._drafts:
                message = f"two teachers are called {name!r}: give one another name"
                self.resolver.add_problem(path, message)
                continue
            self._drafts[name] = draft
            self.places[name] = path
            names.append(name)
        if entry.checkpoint is not None and len(names) > 1:
            message = f"a file of weights is one teacher, not {len(names)}: give one value each"
            self.resolver.add_problem((*path, "checkpoint"), message)
        return names

    def _networks(self, entry: ItemEntry, path: KeyPath) -> list[Item]:
        if catalogue.teacher_setting(entry.name) is not None:
            message = "it is made of a teacher itself, and cannot be one: name a network"
            self.resolver.add_problem((*path, entry.name), message)
            return []
        return self.resolver.variants(STUDENTS, entry, path)

    def _method(self, entry: ItemEntry, path: KeyPath) -> Item | None:
        items = self.resolver.variants(METHODS, entry, path)
        if len(items) > 1:
            message = f"a teacher is taught in one way, not {len(items)}: one value per setting"
            self.resolver.add_problem((*path, entry.name), message)
        return items[0] if len(items) == 1 else None

    # ------------------------------------------------------------ one teacher

    def _teacher(self, name: str) -> Teacher | None:
        if name in self._teachers:
            return self._teachers[name]
        draft = self._drafts[name]
        entry, path, matrix = draft.entry, draft.path, self.resolver.matrix
        method = self._method(entry.method, (*path, "method"))
        self._in_progress.append(name)
        above = self._teacher_of(entry, method, path)
        self._in_progress.pop()
        train = self.resolver.teacher_train(dict(draft.train), (*path, "train"))
        data = matrix.data
        if "train_size" in entry.model_fields_set:
            values = {**data.model_dump(), "train_size": entry.train_size}
            data = DataSpec.model_validate(values)
        cell = Cell(
            data=data,
            student=draft.student,
            method=method or BASELINE,
            teacher=above,
            seed=draft.seed,
            train=train,
            numeric=numeric_of(matrix.numeric, above),
            from_file=self._from_file(entry, path),
        )
        cell = with_warmup(cell, self.resolver.base)
        self._teachers[name] = Teacher(
            name=name,
            cell=cell,
            checkpoint=entry.checkpoint,
            checkpoint_digest=self._digest(entry, path),
            preprocess=self._preprocess(entry, cell, path),
            expect=self._expected(entry, cell, path),
        )
        return self._teachers[name]

    def _teacher_of(
        self, entry: TeacherEntry, method: Item | None, path: KeyPath
    ) -> Teacher | None:
        """Return the teacher of a teacher, or None."""
        if method is None:
            return None
        reads = reads_teacher(method, self.resolver.base, unknown=entry.teacher is not None)
        add_problem = self.resolver.add_problem
        if entry.teacher is None:
            if reads:
                add_problem(path, f"method {method.name} needs a teacher: name it in teacher")
            return None
        if not reads:
            message = f"method {method.name} reads no teacher: name one that does in method"
            add_problem((*path, "teacher"), message)
        elif entry.teacher in self._in_progress:
            first = self._in_progress.index(entry.teacher)
            circle = " ← ".join([*self._in_progress[first:], entry.teacher])
            add_problem((*path, "teacher"), f"teachers teach each other in a circle: {circle}")
        elif len(self._in_progress) >= LONGEST_CHAIN:
            add_problem((*path, "teacher"), f"a chain of more than {LONGEST_CHAIN} teachers")
        elif any(e.name == entry.teacher and e.of for e in self.resolver.matrix.teachers):
            add_problem(
                (*path, "teacher"), f"{entry.teacher!r} is an ensemble, which teaches students"
            )
        elif entry.teacher not in self._drafts:
            close = nearest(entry.teacher, self._drafts)
            hint = f"did you mean {' or '.join(close)}?" if close else "name it in teachers"
            add_problem((*path, "teacher"), f"no teacher is called {entry.teacher!r}: {hint}")
        else:
            return self._teacher(entry.teacher)
        return None

    def _digest(self, entry: TeacherEntry, path: KeyPath) -> str | None:
        if entry.checkpoint is None:
            return None
        digest, reason = file_digest(entry.checkpoint, self.resolver.base)
        if digest is None:
            self.resolver.add_problem((*path, "checkpoint"), reason)
        return digest

    def _from_file(self, entry: TeacherEntry, path: KeyPath) -> WeightsFile | None:
        """Return the file of weights that a teacher's training begins from, or None."""
        if entry.start is None:
            return None
        place = (*path, "start")
        if entry.checkpoint is not None:
            message = "a checkpoint is not trained: give start for weights to train from"
            self.resolver.add_problem(place, message)
        given, problems = weights_file(entry.start, self.resolver.base, place)
        for problem in problems:
            self.resolver.add_problem(problem.path, problem.message)
        return given

    def _preprocess(self, entry: TeacherEntry, cell: Cell, path: KeyPath) -> Preprocessing | None:
        if entry.preprocess is None or entry.checkpoint is None:
            return None
        try:
            file = named_path(entry.checkpoint, self.resolver.base)
            return preprocessing(entry.preprocess, cell.student.name, file)
        except KtbenchError as error:
            self.resolver.add_problem((*path, "preprocess"), str(error))
            return None

    def _expected(self, entry: TeacherEntry, cell: Cell, path: KeyPath) -> float | None:
        """Return the figure that is expected of a file, if it is one of the metric's."""
        if entry.expect is None:
            return None
        metric = catalogue.task(cell.data.task).metric
        if reason := metric.objection(entry.expect):
            share = ": 95 % is 0.95" if metric.digits is None and entry.expect > 1 else ""
            message = f"{metric.name} {reason}, not {entry.expect:g}{share}"
            self.resolver.add_problem((*path, "expect"), message)
        return entry.expect

    # ------------------------------------------------------------ ensembles

    def _ensembles(self, entry: TeacherEntry, path: KeyPath) -> Iterator[Ensemble]:
        """Yield one ensemble per number of teachers drawn."""
        names: list[str] = []
        for number, member in enumerate(entry.of):
            place = (*path, "of", number)
            for name in self._named_teachers(member) or self._inline_teachers(member, place):
                if name in names:
                    self.resolver.add_problem(place, f"{name} is listed twice in the ensemble")
                names.append(name)
        members = self._resolved(names)
        if len(members) < len(names) or len(set(names)) < len(names):
            return  # their errors are reported
        for number, sample in enumerate(entry.sample):
            if len(members) < 2 or sample > len(members):
                message = f"must be at most {len(members)}, the members of the ensemble"
                if len(members) < 2:
                    message = "an ensemble has two members or more: name them in `of`"
                self.resolver.add_problem((*path, "sample", number), message)
                continue
            name = _ensemble_name(entry, sample, names)
            if name in self.places:
                message = f"two teachers are called {name!r}: give one another name"
                self.resolver.add_problem(path, message)
            self.places[name] = path
            yield Ensemble(name=name, sample=sample, of=tuple(members))

    def _named_teachers(self, member: TeacherEntry) -> list[str]:
        """Return the teachers that a member names; none where it is written out."""
        if member.model_fields_set != {"student"} or member.student is None:
            return []
        if member.student.settings:
            return []
        pattern = member.student.name
        if pattern in self._drafts:
            return [pattern]
        return [name for name in self._drafts if fnmatchcase(name, pattern)]

    def _inline_teachers(self, member: TeacherEntry, path: KeyPath) -> list[str]:
        """Draft the teachers that a member stands for, which belong to this ensemble alone."""
        if member.of:
            self.resolver.add_problem(path, "an ensemble's members are single teachers")
            return []
        return self._register(member, path)


def _drafts(
    entry: TeacherEntry, items: Sequence[Item], path: KeyPath
) -> Iterator[tuple[_Draft, str]]:
    """Yield every network, training and seed of an entry, with a name that says what differs."""
    lists = _swept_settings(entry)
    common = {key: value for key, value in entry.train.items() if key not in lists}
    trainings = [dict(zip(lists, chosen, strict=True)) for chosen in product(*lists.values())]
    for item, train, seed in product(items, trainings, entry.seed):
        differs = {key: value for key, value in train.items() if len(lists[key]) > 1}
        differs |= {"seed": seed} if len(entry.seed) > 1 else {}
        draft = _Draft(path, entry, item, {**common, **train}, seed)
        yield draft, _name(entry, item, items, differs)


def _swept_settings(entry: TeacherEntry) -> dict[str, list[JsonValue]]:
    """Return the training settings of which an entry tries several values."""
    return {k: v for k, v in entry.train.items() if isinstance(v, list) and _is_sweep(k, v)}


def teachers_per_network(entry: TeacherEntry) -> int:
    """Count the teachers that an entry makes of one network."""
    return math.prod(map(len, _swept_settings(entry).values())) * len(entry.seed)


def _is_sweep(key: str, value: list[JsonValue]) -> bool:
    """Return True for a list of values to try; a setting that is a list needs a list of lists."""
    field = TrainSpec.model_fields.get(key)
    if not value or field is None:
        return False  # its error is reported where the training is validated
    return not isinstance(field.default, tuple) or isinstance(value[0], list)


def _name(
    entry: TeacherEntry, item: Item, items: Sequence[Item], differs: dict[str, JsonValue]
) -> str:
    """`name(width=2, epochs=5)`: the settings that differ among the teachers of its entry."""
    name, settings = entry.name, {}
    if name is None:
        name, settings = item.name, dict(item.settings)
    elif len(items) > 1:
        first = items[0].settings
        keys = {k for other in items for k in other.settings if other.settings[k] != first.get(k)}
        keys |= {k for k in first if any(k not in other.settings for other in items)}
        settings = {key: value for key, value in item.settings.items() if key in keys}
    base = item.model_copy(update={"name": name, "settings": settings}).label
    differences = Item(name="", settings=differs).label[1:-1]
    if not differences:
        return base
    if settings and base.endswith(")"):
        return f"{base[:-1]}, {differences})"
    return f"{base}({differences})"


def _ensemble_name(entry: TeacherEntry, sample: int, names: Sequence[str]) -> str:
    if entry.name is not None:
        return f"{entry.name}(sample={sample})" if len(entry.sample) > 1 else entry.name
    members = ", ".join(names)
    if len(names) > NAMED:
        members = f"{len(names)} ({names[0]} to {names[-1]})"
    return f"{sample} of {members}"
