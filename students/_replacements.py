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

from torch import nn

from students._blocks import Geometry

Replacement = str | dict[str, dict[str, Any]]
"""A file of `replacements/`, or {name: {setting: value}}."""


@cache
def names() -> tuple[str, ...]:
    """Every replacement, in the order of the alphabet."""
    folder = Path(__file__).with_name("replacements")
    return tuple(sorted(path.stem for path in folder.glob("[!_]*.py")))


def settings(name: str) -> dict[str, inspect.Parameter]:
    """The settings that a replacement takes; ValueError for a name that is not there."""
    parameters = inspect.signature(_module(name).build, eval_str=True).parameters
    return {k: p for k, p in parameters.items() if p.kind is p.KEYWORD_ONLY}


def make(entry: Replacement, geometry: Geometry) -> nn.Module:
    """A freshly initialised replacement, from torch's generator.

    Raises ValueError, in one line, for a name, a setting or a value that cannot be.
    """
    name, given = _named(entry)
    known = settings(name)
    for setting in given:
        if setting not in known:
            raise ValueError(_unknown(f"setting of replacement {name}", setting, known))
    made: nn.Module = _module(name).build(geometry, **given)
    return made


def adopt(entry: Replacement, replacement: nn.Module, block: nn.Sequential) -> bool:
    """Let a replacement start from the block that it stands for; False where its file cannot.

    `block` is as `Block.modules` gives it, and stays as it is.
    """
    start = getattr(_module(_named(entry)[0]), "adopt", None)
    if start is None:
        return False
    start(replacement, block)
    return True


def _named(entry: Replacement) -> tuple[str, Mapping[str, Any]]:
    if isinstance(entry, str):
        return entry, {}
    if len(entry) != 1:
        raise ValueError("a replacement is a name or {name: {setting: value}}")
    [(name, given)] = entry.items()
    return name, given


def _module(name: str) -> ModuleType:
    if name not in names():
        raise ValueError(_unknown("replacement", name, names()))
    return import_module(f"students.replacements.{name}")


def _unknown(what: str, name: str, known: Iterable[str]) -> str:
    known = list(known)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if close:
        return f"unknown {what} {name!r}: did you mean {' or '.join(close)}?"
    return f"unknown {what} {name!r}: {'known are ' + ', '.join(known) if known else 'it has none'}"
