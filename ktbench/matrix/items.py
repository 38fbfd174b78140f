"""Students and methods of a matrix: names and settings checked, sweeps expanded.

A list that is itself a value of a setting (`pairs: [[0, 0]]`, by the type that the item's file
declares) is one value; any other list tries each of its members.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from pydantic import JsonValue, TypeAdapter, ValidationError
from pydantic_core import to_jsonable_python

from ktbench import catalogue
from ktbench.catalogue import SettingInfo, nearest
from ktbench.matrix.file_problems import KeyPath, Problem, phrase
from ktbench.matrix.models import ItemEntry
from ktbench.networks.outline import try_build
from ktbench.records import Item, KtbenchError, Teacher

MOST_VARIANTS = 1_000
"""Most variants of one entry, as each is built once to see whether it can be."""


@dataclass(frozen=True)
class Kind:
    """Students or methods."""

    word: str
    settings: Callable[[str, str], Mapping[str, SettingInfo]]
    """Settings by name and base folder; raises KtbenchError for an unknown name."""
    build: Callable[[str, dict[str, Any], str], object]
    """Builds from name, settings and base folder; raises KtbenchError for impossible values."""
    explains: bool
    """True where the item's own errors are better than those of a value's type."""
    code: Callable[[str, dict[str, Any], str], str | None]
    """`Item.code` from name, settings and base folder."""


STUDENTS = Kind(
    "student",
    catalogue.student_settings,
    try_build,
    explains=False,
    code=catalogue.student_code,
)
METHODS = Kind(
    "method",
    catalogue.method_settings,
    catalogue.method_config,
    explains=True,
    code=catalogue.method_code,
)


@dataclass(frozen=True)
class _Choice:
    """One value of a setting, its key path, and the objection of its type, if any."""

    value: JsonValue
    path: KeyPath
    objection: str | None = None


def variants(
    kind: Kind,
    entry: ItemEntry,
    base: str,
    *,
    fixed: Mapping[str, JsonValue] | None = None,
    implied: tuple[str, ...] = (),
) -> tuple[list[Item], list[Problem]]:
    """Return the items that an entry stands for; the paths of problems start below the entry.

    `fixed` are settings that every item has beside the entry's; labels omit those of `implied`.
    """
    fixed = fixed or {}
    if kind is METHODS and catalogue.unseen(entry.name):
        code = catalogue.code_digest(entry.name, base)  # its settings are as the file has them
        return [Item(name=entry.name, settings=dict(entry.settings), code=code)], []
    try:
        declared = kind.settings(entry.name, base)
    except KtbenchError as error:
        return [], [Problem((entry.name,), str(error))]
    problems: list[Problem] = []
    choices: dict[str, list[_Choice]] = {}
    for setting, value in entry.settings.items():
        if setting in declared:
            choices[setting] = _choices(declared[setting], value, (entry.name, setting))
        else:
            message = _unknown(kind, entry.name, setting, declared)
            problems.append(Problem((entry.name, setting), message))
    if problems:
        return [], problems
    size = math.prod(len(values) for values in choices.values())
    if not 1 <= size <= MOST_VARIANTS:
        reason = "an empty list tries nothing"
        if size:
            reason = f"{size:,} variants are too many: {MOST_VARIANTS:,} at most"
        return [], [Problem((entry.name,), reason)]
    items = []
    for chosen in product(*choices.values()):
        picked = dict(zip(choices, chosen, strict=True))
        objections = _objections(kind, entry.name, picked, base, fixed)
        problems += [problem for problem in objections if problem not in problems]
        try:
            item = Item(name=entry.name, settings=_differing(picked, declared))
        except ValidationError as error:
            problems.append(Problem((entry.name,), phrase(error.errors()[0])))
            continue
        if not objections:
            try:
                code = kind.code(item.name, item.settings, base)
            except KtbenchError as error:
                problems.append(Problem((entry.name,), str(error)))
                continue
            item = item.model_copy(update={"code": code})
        if fixed:
            settings = {**fixed, **item.settings}
            item = item.model_copy(update={"settings": settings, "implied": implied})
        items.append(item)
    return ([], problems) if problems else (items, [])


def count(kind: Kind, entry: ItemEntry, base: str) -> int:
    """Count the items of an entry without building any; 1 where there is none."""
    try:
        declared = kind.settings(entry.name, base)
    except KtbenchError:
        return 1
    lengths = (
        len(_choices(declared[setting], value, ()))
        for setting, value in entry.settings.items()
        if setting in declared
    )
    return max(1, math.prod(lengths))


def _unknown(kind: Kind, name: str, setting: str, declared: Mapping[str, SettingInfo]) -> str:
    close = nearest(setting, declared)
    if close:
        hint = f"did you mean {' or '.join(close)}?"
    else:
        hint = f"known are {', '.join(declared)}" if declared else "it has none"
    return f"unknown setting of {kind.word} {name!r}: {hint}"


def _choices(info: SettingInfo, value: JsonValue, path: KeyPath) -> list[_Choice]:
    whole = _choice(info, value, path)
    if whole.objection is None or not isinstance(value, list):
        return [whole]
    return [_choice(info, member, (*path, i)) for i, member in enumerate(value)]


def _choice(info: SettingInfo, value: JsonValue, path: KeyPath) -> _Choice:
    """Fit a value to its setting's type: 4 becomes 4.0 for a setting that takes fractions."""
    try:
        fitted = TypeAdapter(info.kind).validate_python(catalogue.frozen(value), strict=True)
        plain: JsonValue = to_jsonable_python(fitted)
    except ValidationError as error:
        return _Choice(value, path, phrase(error.errors()[0]))
    return _Choice(plain, path)


def _differing(
    picked: Mapping[str, _Choice], declared: Mapping[str, SettingInfo]
) -> dict[str, JsonValue]:
    """Return the settings that do not equal their defaults: one item, one key."""
    return {
        setting: choice.value
        for setting, choice in picked.items()
        if choice.value != to_jsonable_python(declared[setting].default, fallback=repr)
        or isinstance(choice.value, bool) != isinstance(declared[setting].default, bool)
    }


def _objections(
    kind: Kind,
    name: str,
    picked: Mapping[str, _Choice],
    base: str,
    fixed: Mapping[str, JsonValue],
) -> list[Problem]:
    """List the objections of the item to its values, else those of their types.

    Where the item refuses them together, each is tried alone, to report the problem at its line.
    """
    together = {**fixed, **{setting: choice.value for setting, choice in picked.items()}}
    refused = _refusal(kind, name, together, base)
    problems = []
    for setting, choice in picked.items():
        alone = {**fixed, setting: choice.value}
        reason = _refusal(kind, name, alone, base) if refused is not None else None
        if choice.objection is not None and not (reason and kind.explains):
            reason = choice.objection
        if reason is not None:
            problems.append(Problem(choice.path, reason))
    if refused is not None and not problems:
        problems.append(Problem((name,), refused))
    return problems


def _refusal(kind: Kind, name: str, settings: dict[str, Any], base: str) -> str | None:
    try:
        kind.build(name, settings, base)
    except KtbenchError as error:
        return str(error).removeprefix(f"{kind.word} {name}: ")
    except ValidationError as error:  # a value that no record holds, such as an infinite number
        return phrase(error.errors()[0])
    return None


# ---------------------------------------------------------------- students made of a teacher


def of_teachers(
    entry: ItemEntry, setting: str, teachers: Sequence[Teacher], base: str
) -> tuple[list[Item], list[Problem]]:
    """Return the items of a student made of a teacher: one per teacher that `setting` names.

    The paths of problems start below the entry.
    """
    chosen, problems = _named_teachers(entry, setting, teachers)
    items: list[Item] = []
    networks = catalogue.network_settings(entry.name)
    others = {k: v for k, v in entry.settings.items() if k != setting and k not in networks}
    plain = ItemEntry(name=entry.name, settings=others)
    for teacher in chosen:
        for key in networks:
            if key in entry.settings and not _is_network_of(entry.settings[key], teacher, base):
                message = (
                    f"teacher {teacher.name} is another network, {teacher.cell.student.label}: "
                    f"leave {key} out"
                )
                problems.append(Problem((entry.name, key), message))
        fixed: dict[str, JsonValue] = {setting: teacher.name}
        fixed |= dict.fromkeys(networks, _entry(teacher.cell.student))
        students, more = variants(STUDENTS, plain, base, fixed=fixed, implied=tuple(networks))
        items += [_with_network_code(item, teacher) for item in students]
        problems += [problem for problem in more if problem not in problems]
    return ([], problems) if problems else (items, [])


def _with_network_code(item: Item, teacher: Teacher) -> Item:
    """Return a control with the code of its teacher's network, which nothing else in its key names.

    A student that begins from the teacher's blocks has the teacher in its key.
    """
    if item.code is not None or catalogue.from_blocks(item.name, item.settings) is None:
        return item
    return item.model_copy(update={"code": teacher.cell.student.code})


def _named_teachers(
    entry: ItemEntry, setting: str, teachers: Sequence[Teacher]
) -> tuple[list[Teacher], list[Problem]]:
    """Return the teachers that an entry names, or all of the matrix where it names none."""
    if not teachers:
        message = f"{entry.name} is made of a teacher's network: name one in teachers"
        return [], [Problem((entry.name,), message)]
    every = catalogue.student_settings(entry.name)[setting].default
    value = entry.settings.get(setting, every)
    if value == every:
        return list(teachers), []
    by_name = {teacher.name: teacher for teacher in teachers}
    chosen, problems = list[Teacher](), list[Problem]()
    for name in value if isinstance(value, list) else [value]:
        if isinstance(name, str) and name in by_name:
            chosen.append(by_name[name])
            continue
        close = nearest(str(name), by_name)
        hint = f"did you mean {' or '.join(close)}?" if close else f"known are {', '.join(by_name)}"
        problems.append(Problem((entry.name, setting), f"no teacher is called {name!r}: {hint}"))
    return chosen, problems


def _entry(item: Item) -> JsonValue:
    """Write a network as a setting names it."""
    return {item.name: item.settings} if item.settings else item.name


def _is_network_of(value: JsonValue, teacher: Teacher, base: str) -> bool:
    """Return True where the network of an entry is a teacher's."""
    try:
        entry = ItemEntry.model_validate(value)
    except ValidationError:
        return False
    return variants(STUDENTS, entry, base)[0] == [teacher.cell.student]
