"""Students that are made of a teacher's network: one per teacher that an entry names."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import JsonValue, ValidationError

from ktbench import catalogue
from ktbench.catalogue import nearest
from ktbench.matrix.document import Problem
from ktbench.matrix.items import STUDENTS, variants
from ktbench.matrix.models import ItemEntry
from ktbench.records import Item, Teacher


def of_teachers(
    entry: ItemEntry, setting: str, teachers: Sequence[Teacher], base: str
) -> tuple[list[Item], list[Problem]]:
    """The items that an entry stands for, with the network of the teacher that `setting` names.

    Problems are told by path below the entry.
    """
    chosen, problems = _named(entry, setting, teachers)
    items: list[Item] = []
    networks = catalogue.network_settings(entry.name)
    own = {k: v for k, v in entry.settings.items() if k != setting and k not in networks}
    plain = ItemEntry(name=entry.name, settings=own)
    for teacher in chosen:
        for key in networks:
            if key in entry.settings and not _same(entry.settings[key], teacher, base):
                message = (
                    f"teacher {teacher.name} is another network, {teacher.cell.student.label}: "
                    f"leave {key} out"
                )
                problems.append(Problem((entry.name, key), message))
        given: dict[str, JsonValue] = {setting: teacher.name}
        given |= dict.fromkeys(networks, _entry(teacher.cell.student))
        found, more = variants(STUDENTS, plain, base, given=given, implied=tuple(networks))
        items += found
        problems += [problem for problem in more if problem not in problems]
    return ([], problems) if problems else (items, [])


def _named(
    entry: ItemEntry, setting: str, teachers: Sequence[Teacher]
) -> tuple[list[Teacher], list[Problem]]:
    """The teachers that an entry names: each of the matrix where it names none."""
    if not teachers:
        message = f"{entry.name} is made of a teacher's network: name one in teachers"
        return [], [Problem((entry.name,), message)]
    every = catalogue.student_settings(entry.name)[setting].default
    value = entry.settings.get(setting, every)
    if value == every:
        return list(teachers), []
    by_name = {teacher.name: teacher for teacher in teachers}
    found, problems = list[Teacher](), list[Problem]()
    for name in value if isinstance(value, list) else [value]:
        if isinstance(name, str) and name in by_name:
            found.append(by_name[name])
            continue
        close = nearest(str(name), by_name)
        hint = f"did you mean {' or '.join(close)}?" if close else f"known are {', '.join(by_name)}"
        problems.append(Problem((entry.name, setting), f"no teacher is called {name!r}: {hint}"))
    return found, problems


def _entry(item: Item) -> JsonValue:
    """A network as a setting names it."""
    return {item.name: item.settings} if item.settings else item.name


def _same(value: JsonValue, teacher: Teacher, base: str) -> bool:
    """Whether a network that an entry names is a teacher's."""
    try:
        entry = ItemEntry.model_validate(value)
    except ValidationError:
        return False
    return variants(STUDENTS, entry, base)[0] == [teacher.cell.student]
