"""Students and methods as a matrix writes them: names checked, settings checked, sweeps unfolded.

A list that is itself a value of a setting (`pairs: [[0, 0]]`, by the type that the item's file
declares) is one value; any other list tries each of its members.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

from pydantic import JsonValue, TypeAdapter, ValidationError
from pydantic_core import to_jsonable_python

from ktbench import catalogue
from ktbench.catalogue import SettingInfo, nearest
from ktbench.matrix.document import KeyPath, Problem
from ktbench.matrix.errors import phrase
from ktbench.matrix.models import ItemEntry
from ktbench.networks.outline import try_build
from ktbench.records import Item, KtbenchError

MOST_VARIANTS = 1_000
"""Of one entry: each is built once, to see whether it can be."""


@dataclass(frozen=True)
class Kind:
    """Students or methods."""

    word: str
    settings: Callable[[str, str], Mapping[str, SettingInfo]]
    """Of a name and a base folder; raises KtbenchError for a name that is not there."""
    build: Callable[[str, dict[str, Any], str], object]
    """Of a name, settings and a base folder; raises KtbenchError for values that cannot be."""
    explains: bool
    """Whether what it says of a value is better than what the value's type says."""


STUDENTS = Kind("student", catalogue.student_settings, try_build, explains=False)
METHODS = Kind("method", catalogue.method_settings, catalogue.method_config, explains=True)


@dataclass(frozen=True)
class _Choice:
    """One value of a setting, where it stands, and what its type says against it."""

    value: JsonValue
    path: KeyPath
    objection: str | None = None


def variants(
    kind: Kind,
    entry: ItemEntry,
    base: str,
    *,
    given: Mapping[str, JsonValue] | None = None,
    implied: tuple[str, ...] = (),
) -> tuple[list[Item], list[Problem]]:
    """The items that an entry stands for; problems are told by path below the entry.

    `given` are settings that every item has beside the entry's, those of `implied` unsaid.
    """
    given = given or {}
    if kind is METHODS and catalogue.unseen(entry.name):
        code = catalogue.code_digest(entry.name, base)  # its settings are as the file has them
        return [Item(name=entry.name, settings=dict(entry.settings), code=code)], []
    try:
        known = kind.settings(entry.name, base)
    except KtbenchError as error:
        return [], [Problem((entry.name,), str(error))]
    problems: list[Problem] = []
    choices: dict[str, list[_Choice]] = {}
    for setting, value in entry.settings.items():
        if setting in known:
            choices[setting] = _choices(known[setting], value, (entry.name, setting))
        else:
            message = _unknown(kind, entry.name, setting, known)
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
        found = _objections(kind, entry.name, picked, base, given)
        problems += [problem for problem in found if problem not in problems]
        item = _item(entry.name, picked, known, base)
        if given:
            settings = {**given, **item.settings}
            item = item.model_copy(update={"settings": settings, "implied": implied})
        items.append(item)
    return ([], problems) if problems else (items, [])


def count(kind: Kind, entry: ItemEntry, base: str) -> int:
    """How many items an entry stands for, none of them built; 1 for one that stands for none."""
    try:
        known = kind.settings(entry.name, base)
    except KtbenchError:
        return 1
    lengths = (
        len(_choices(known[setting], value, ()))
        for setting, value in entry.settings.items()
        if setting in known
    )
    return max(1, math.prod(lengths))


def _unknown(kind: Kind, name: str, setting: str, known: Mapping[str, SettingInfo]) -> str:
    close = nearest(setting, known)
    if close:
        hint = f"did you mean {' or '.join(close)}?"
    else:
        hint = f"known are {', '.join(known)}" if known else "it has none"
    return f"unknown setting of {kind.word} {name!r}: {hint}"


def _choices(info: SettingInfo, value: JsonValue, path: KeyPath) -> list[_Choice]:
    whole = _choice(info, value, path)
    if whole.objection is None or not isinstance(value, list):
        return [whole]
    return [_choice(info, member, (*path, i)) for i, member in enumerate(value)]


def _choice(info: SettingInfo, value: JsonValue, path: KeyPath) -> _Choice:
    """The value as its type has it: 4 becomes 4.0 where a number with a fraction may stand."""
    try:
        fitted = TypeAdapter(info.kind).validate_python(catalogue.frozen(value), strict=True)
        plain: JsonValue = to_jsonable_python(fitted)
    except ValidationError as error:
        return _Choice(value, path, phrase(error.errors()[0]))
    return _Choice(plain, path)


def _item(
    name: str, picked: Mapping[str, _Choice], known: Mapping[str, SettingInfo], base: str
) -> Item:
    """Settings that are the item's own defaults are left out: one item, one key."""
    settings = {
        setting: choice.value
        for setting, choice in picked.items()
        if choice.value != to_jsonable_python(known[setting].default, fallback=repr)
        or isinstance(choice.value, bool) != isinstance(known[setting].default, bool)
    }
    return Item(name=name, settings=settings, code=catalogue.code_digest(name, base))


def _objections(
    kind: Kind,
    name: str,
    picked: Mapping[str, _Choice],
    base: str,
    given: Mapping[str, JsonValue],
) -> list[Problem]:
    """What the item itself says against the values, else what their types say.

    Where the item refuses them together, each is tried alone, so that the problem is told where it
    stands.
    """
    together = {**given, **{setting: choice.value for setting, choice in picked.items()}}
    refused = _refusal(kind, name, together, base)
    problems = []
    for setting, choice in picked.items():
        alone = {**given, setting: choice.value}
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
    return None
