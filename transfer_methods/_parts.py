"""Finds the methods that `combined` is made of, by name, within this folder."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ktbench.transfer_methods import _checks
from ktbench.transfer_methods._contract import TransferMethod

_KEYS = ("method", "settings", "weight", "last_weight", "start", "end")


@dataclass(frozen=True, slots=True)
class Part:
    """One method of a sum, with its time and its weight."""

    method: str
    """A method of this folder."""
    config: Any
    """Its settings."""
    weight: float = 1.0
    """Weight of all its terms when its time begins."""
    last_weight: float | None = None
    """Weight of all its terms when its time ends, reached linearly; None: the same as `weight`."""
    start: float = 0.0
    """Share of the training after which it begins to count."""
    end: float = 1.0
    """Share of the training after which it counts no more."""

    def __post_init__(self) -> None:
        _checks.number(self, "weight", least=0)
        if self.last_weight is not None:
            _checks.number(self, "last_weight", least=0)
        _checks.number(self, "start", "end", least=0, most=1)
        if self.start >= self.end:
            raise ValueError(f"start must be below end, not {self.start:g} and {self.end:g}")

    def weight_at(self, progress: float) -> float:
        """The weight within [start, end)."""
        last = self.weight if self.last_weight is None else self.last_weight
        done = (progress - self.start) / (self.end - self.start)
        return self.weight + min(1.0, max(0.0, done)) * (last - self.weight)

    @property
    def kind(self) -> type[TransferMethod]:
        """The method's class."""
        return method_class(self.method)


def read_part(given: object) -> Part:
    """A part as a matrix writes it; ValueError in one line where it is not one."""
    if isinstance(given, Part):
        return given
    if isinstance(given, str):
        given = {"method": given}
    if not isinstance(given, Mapping):
        raise ValueError(f"parts must hold a method's name or a mapping, not {given!r}")
    unknown = [key for key in given if key not in _KEYS]
    if unknown:
        raise ValueError(f"parts: unknown key {unknown[0]!r}{_hint(str(unknown[0]), _KEYS)}")
    if not isinstance(given.get("method"), str):
        raise ValueError("parts: each part must name its method")
    name = given["method"]
    settings = given.get("settings", {})
    if not isinstance(settings, Mapping):
        raise ValueError(f"parts: settings of {name} must be a mapping, not {settings!r}")
    rest = {key: given[key] for key in given if key not in ("method", "settings")}
    try:
        return Part(name, _config(name, settings), **rest)
    except (TypeError, ValueError) as error:
        raise ValueError(f"parts: {name}: {error}") from error


def method_class(name: str) -> type[TransferMethod]:
    """A method of this folder."""
    names = sorted(path.stem for path in Path(__file__).parent.glob("[!_]*.py"))
    if name not in names:
        raise ValueError(f"unknown method {name!r}{_hint(name, names)}")
    module = importlib.import_module(f"ktbench.transfer_methods.{name}")
    method: type[TransferMethod] = module.Method
    return method


def _config(name: str, settings: Mapping[str, Any]) -> Any:
    kind = method_class(name).Config
    names = [field.name for field in fields(kind)]
    for setting in settings:
        if setting not in names:
            raise ValueError(f"unknown setting {setting!r}{_hint(str(setting), names)}")
    return kind(**{key: _hashable(value) for key, value in settings.items()})


def _hashable(value: Any) -> Any:
    return tuple(_hashable(v) for v in value) if isinstance(value, list | tuple) else value


def _hint(name: str, names: list[str] | tuple[str, ...]) -> str:
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    return f": did you mean {' or '.join(close)}?" if close else f": known are {', '.join(names)}"
