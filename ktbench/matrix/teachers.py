"""The teachers of a matrix: single ones, lists of them, and ensembles."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import product
from pathlib import Path
from typing import Any, Protocol

from pydantic import JsonValue

from ktbench import catalogue
from ktbench.catalogue import nearest
from ktbench.matrix.cell_settings import numeric_of, reads_teacher
from ktbench.matrix.document import KeyPath
from ktbench.matrix.items import METHODS, STUDENTS, Kind
from ktbench.matrix.models import ItemEntry, Matrix, TeacherEntry
from ktbench.records import (
    BASELINE,
    Cell,
    DataSpec,
    Ensemble,
    Item,
    Teacher,
    TrainSpec,
)
from ktbench.system.files import MOST_WEIGHTS, UnsuitableFileError, check_regular

LONGEST_CHAIN = 32
"""Teachers that are taught by each other, one after the other."""
NAMED = 4
"""Members that the name of an ensemble spells out."""


class Asker(Protocol):
    """Who wants to know the teachers, and hears of what is wrong with them."""

    matrix: Matrix

    @property
    def base(self) -> str:
        """Folder that relative paths start from."""

    def say(self, path: KeyPath, message: str) -> None:
        """Note a problem."""

    def variants(self, kind: Kind, entry: ItemEntry, path: KeyPath) -> list[Item]:
        """The items that an entry stands for."""

    def teacher_train(self, changes: dict[str, Any], path: KeyPath) -> TrainSpec:
        """The matrix's training with a teacher's changes."""


@dataclass(frozen=True)
class _Wanted:
    """One network of an entry: its settings chosen."""

    path: KeyPath
    entry: TeacherEntry
    student: Item
    train: dict[str, JsonValue]
    seed: int


class Teachers:
    """Teachers in the order of the file, each after the one that taught it."""

    def __init__(self, asker: Asker) -> None:
        self.asker = asker
        self.places: dict[str, KeyPath] = {}
        """Where each stands in the file, by name."""
        self._wanted: dict[str, _Wanted] = {}
        self._done: dict[str, Teacher | None] = {}
        self._open: list[str] = []

    def all(self) -> tuple[Teacher | Ensemble, ...]:
        """Everybody that could be worked out; members written within an ensemble stay in it."""
        entries = self.asker.matrix.teachers
        own = {n: self._take(e, ("teachers", n)) for n, e in enumerate(entries) if not e.of}
        found: list[Teacher | Ensemble] = []
        for number, entry in enumerate(entries):
            if entry.of:
                found += self._ensembles(entry, ("teachers", number))
            else:
                found += self._made(own[number])
        return tuple(found)

    def _made(self, names: Sequence[str]) -> list[Teacher]:
        made = [self._teacher(name) for name in names]
        return [teacher for teacher in made if teacher is not None]

    # ------------------------------------------------------------ entries

    def _take(self, entry: TeacherEntry, path: KeyPath) -> list[str]:
        """The names of the teachers that an entry stands for."""
        assert entry.student is not None
        items = self._networks(entry.student, (*path, "student"))
        names = []
        for wanted, name in _unfolded(entry, items, path):
            if name in self._wanted:
                message = f"two teachers are called {name!r}: give one another name"
                self.asker.say(path, message)
                continue
            self._wanted[name] = wanted
            self.places[name] = path
            names.append(name)
        if entry.checkpoint is not None and len(names) > 1:
            message = f"a file of weights is one teacher, not {len(names)}: give one value each"
            self.asker.say((*path, "checkpoint"), message)
        return names

    def _networks(self, entry: ItemEntry, path: KeyPath) -> list[Item]:
        if catalogue.teacher_setting(entry.name) is not None:
            message = "it is made of a teacher itself, and cannot be one: name a network"
            self.asker.say((*path, entry.name), message)
            return []
        return self.asker.variants(STUDENTS, entry, path)

    def _method(self, entry: ItemEntry, path: KeyPath) -> Item | None:
        items = self.asker.variants(METHODS, entry, path)
        if len(items) > 1:
            message = f"a teacher is taught in one way, not {len(items)}: one value per setting"
            self.asker.say((*path, entry.name), message)
        return items[0] if len(items) == 1 else None

    # ------------------------------------------------------------ one teacher

    def _teacher(self, name: str) -> Teacher | None:
        if name in self._done:
            return self._done[name]
        wanted = self._wanted[name]
        entry, path, matrix = wanted.entry, wanted.path, self.asker.matrix
        method = self._method(entry.method, (*path, "method"))
        self._open.append(name)
        above = self._above(entry, method, path)
        self._open.pop()
        train = self.asker.teacher_train(dict(wanted.train), (*path, "train"))
        data = matrix.data
        if "train_size" in entry.model_fields_set:
            values = {**data.model_dump(), "train_size": entry.train_size}
            data = DataSpec.model_validate(values)
        cell = Cell(
            data=data,
            student=wanted.student,
            method=method or BASELINE,
            teacher=above,
            seed=wanted.seed,
            train=train,
            numeric=numeric_of(matrix.numeric, above),
        )
        digest = self._digest(entry, path)
        self._done[name] = Teacher(
            name=name, cell=cell, checkpoint=entry.checkpoint, checkpoint_digest=digest
        )
        return self._done[name]

    def _above(self, entry: TeacherEntry, method: Item | None, path: KeyPath) -> Teacher | None:
        """The teacher of a teacher."""
        if method is None:
            return None
        reads = reads_teacher(method, self.asker.base, unknown=entry.teacher is not None)
        say = self.asker.say
        if entry.teacher is None:
            if reads:
                say(path, f"method {method.name} needs a teacher: name it in teacher")
            return None
        if not reads:
            message = f"method {method.name} reads no teacher: name one that does in method"
            say((*path, "teacher"), message)
        elif entry.teacher in self._open:
            chain = " ← ".join([*self._open[self._open.index(entry.teacher) :], entry.teacher])
            say((*path, "teacher"), f"teachers teach each other in a circle: {chain}")
        elif len(self._open) >= LONGEST_CHAIN:
            say((*path, "teacher"), f"a chain of more than {LONGEST_CHAIN} teachers")
        elif any(e.name == entry.teacher and e.of for e in self.asker.matrix.teachers):
            say((*path, "teacher"), f"{entry.teacher!r} is an ensemble, which teaches students")
        elif entry.teacher not in self._wanted:
            close = nearest(entry.teacher, self._wanted)
            hint = f"did you mean {' or '.join(close)}?" if close else "name it in teachers"
            say((*path, "teacher"), f"no teacher is called {entry.teacher!r}: {hint}")
        else:
            return self._teacher(entry.teacher)
        return None

    def _digest(self, entry: TeacherEntry, path: KeyPath) -> str | None:
        if entry.checkpoint is None:
            return None
        file = Path(self.asker.base, entry.checkpoint)
        try:
            check_regular(file, MOST_WEIGHTS)
            with file.open("rb") as stream:
                return hashlib.file_digest(stream, "sha256").hexdigest()[:16]
        except UnsuitableFileError as error:
            self.asker.say((*path, "checkpoint"), str(error))
        except OSError as error:
            reason = error.strerror or "cannot be read"
            self.asker.say((*path, "checkpoint"), f"{file}: {reason.lower()}")
        return None

    # ------------------------------------------------------------ ensembles

    def _ensembles(self, entry: TeacherEntry, path: KeyPath) -> Iterator[Ensemble]:
        """One per number of teachers that are drawn."""
        names: list[str] = []
        for number, member in enumerate(entry.of):
            place = (*path, "of", number)
            for name in self._named(member) or self._written(member, place):
                if name in names:
                    self.asker.say(place, f"{name} stands twice in the ensemble")
                names.append(name)
        members = self._made(names)
        if len(members) < len(names) or len(set(names)) < len(names):
            return  # what is wrong with them is told
        for number, sample in enumerate(entry.sample):
            if len(members) < 2 or sample > len(members):
                message = f"must be at most {len(members)}, the members of the ensemble"
                if len(members) < 2:
                    message = "an ensemble has two members or more: name them in `of`"
                self.asker.say((*path, "sample", number), message)
                continue
            name = _ensemble_name(entry, sample, names)
            if name in self.places:
                message = f"two teachers are called {name!r}: give one another name"
                self.asker.say(path, message)
            self.places[name] = path
            yield Ensemble(name=name, sample=sample, of=tuple(members))

    def _named(self, member: TeacherEntry) -> list[str]:
        """The teachers that a member names; none where it is written out."""
        if member.model_fields_set != {"student"} or member.student is None:
            return []
        if member.student.settings:
            return []
        given = member.student.name
        if given in self._wanted:
            return [given]
        return [name for name in self._wanted if fnmatchcase(name, given)]

    def _written(self, member: TeacherEntry, path: KeyPath) -> list[str]:
        """The teachers that a member stands for, of this ensemble alone."""
        if member.of:
            self.asker.say(path, "an ensemble's members are single teachers")
            return []
        return self._take(member, path)


def _unfolded(
    entry: TeacherEntry, items: Sequence[Item], path: KeyPath
) -> Iterator[tuple[_Wanted, str]]:
    """Every network, training and seed of an entry, with a name that says what differs."""
    lists = trained_with(entry)
    common = {key: value for key, value in entry.train.items() if key not in lists}
    trainings = [dict(zip(lists, chosen, strict=True)) for chosen in product(*lists.values())]
    for item, train, seed in product(items, trainings, entry.seed):
        differs = {key: value for key, value in train.items() if len(lists[key]) > 1}
        differs |= {"seed": seed} if len(entry.seed) > 1 else {}
        wanted = _Wanted(path, entry, item, {**common, **train}, seed)
        yield wanted, _name(entry, item, items, differs)


def trained_with(entry: TeacherEntry) -> dict[str, list[JsonValue]]:
    """The settings of an entry's training of which several values are tried."""
    return {k: v for k, v in entry.train.items() if isinstance(v, list) and _tried(k, v)}


def trainings(entry: TeacherEntry) -> int:
    """How many teachers an entry makes of one network."""
    return math.prod(map(len, trained_with(entry).values())) * len(entry.seed)


def _tried(key: str, value: list[JsonValue]) -> bool:
    """Whether a list tries its members: a setting that is a list itself needs a list of lists."""
    field = TrainSpec.model_fields.get(key)
    if not value or field is None:
        return False  # what is wrong with it is told where the training is worked out
    return not isinstance(field.default, tuple) or isinstance(value[0], list)


def _name(
    entry: TeacherEntry, item: Item, items: Sequence[Item], differs: dict[str, JsonValue]
) -> str:
    """`name(width=2, epochs=5)`: the settings that tell it from the others of its entry."""
    name, settings = entry.name, {}
    if name is None:
        name, settings = item.name, dict(item.settings)
    elif len(items) > 1:
        first = items[0].settings
        keys = {k for other in items for k in other.settings if other.settings[k] != first.get(k)}
        keys |= {k for k in first if any(k not in other.settings for other in items)}
        settings = {key: value for key, value in item.settings.items() if key in keys}
    base = item.model_copy(update={"name": name, "settings": settings}).label
    said = Item(name="", settings=differs).label[1:-1]
    if not said:
        return base
    return f"{base[:-1]}, {said})" if settings and base.endswith(")") else f"{base}({said})"


def _ensemble_name(entry: TeacherEntry, sample: int, names: Sequence[str]) -> str:
    if entry.name is not None:
        return f"{entry.name}(sample={sample})" if len(entry.sample) > 1 else entry.name
    told = ", ".join(names)
    if len(names) > NAMED:
        told = f"{len(names)} ({names[0]} to {names[-1]})"
    return f"{sample} of {told}"
