"""Finds replacements of blocks by name: the folder `replacements/` is their catalogue."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

Replacement = str | dict[str, dict[str, Any]]
"""A file of `replacements/`, or {name: {setting: value}}."""


@cache
def names() -> tuple[str, ...]:
    """Every replacement, in the order of the alphabet."""
    folder = Path(__file__).with_name("replacements")
    return tuple(sorted(path.stem for path in folder.glob("[!_]*.py")))


def settings(name: str) -> dict[str, inspect.Parameter]:
    """The settings that a replacement takes; ValueError for a name that is not there."""
    parameters = inspect.signature(_file(name).build, eval_str=True).parameters
    return {k: p for k, p in parameters.items() if p.kind is p.KEYWORD_ONLY}


def found(entry: Replacement) -> tuple[ModuleType, Mapping[str, Any]]:
    """The file that an entry names, and the settings that it gives.

    Raises ValueError, in one line, for a name or a setting that is not there.
    """
    if isinstance(entry, str):
        return _file(entry), {}
    if len(entry) != 1:
        raise ValueError("a replacement is a name or {name: {setting: value}}")
    [(name, given)] = entry.items()
    known = settings(name)
    for setting in given:
        if setting not in known:
            raise ValueError(_unknown(f"setting of replacement {name}", setting, known))
    return _file(name), given


def _file(name: str) -> ModuleType:
    if name not in names():
        raise ValueError(_unknown("replacement", name, names()))
    return import_module(f"ktbench.students.replacements.{name}")


def _unknown(what: str, name: str, names: Iterable[str]) -> str:
    names = list(names)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if close:
        return f"unknown {what} {name!r}: did you mean {' or '.join(close)}?"
    return f"unknown {what} {name!r}: {'known are ' + ', '.join(names) if names else 'it has none'}"
