"""Base of every record, canonical JSON and digests, and the two errors of the program."""

from __future__ import annotations

import hashlib
import json
import traceback
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, JsonValue

from ktbench.records.printable import printable

SCHEMA = 2
"""Version of the files in a results folder; the package's docstring has its history."""


class KtbenchError(Exception):
    """An error for the user: one line that says what went wrong, where, and what to do.

    Its text holds nothing that a terminal acts on, whatever names and paths it quotes.
    """

    def __str__(self) -> str:
        """Text without control characters except line breaks between problems."""
        return printable(super().__str__())


class StorageError(KtbenchError):
    """A file could not be written: the run stops, since going on would lose what comes next."""


OWN_ERRORS = (Exception, SystemExit, GeneratorExit, BaseExceptionGroup)
"""Exceptions expected from a user's own code; signals (KeyboardInterrupt) are not among them."""


def one_line(error: BaseException) -> str:
    """Describe an error on one line: a KtbenchError by its text, any other with its type and place.

    The place is the innermost line outside torch, so that users find it in a file of theirs. The
    line is always valid UTF-8 of bounded length, without control characters.
    """
    text = _plain(error, 500 if isinstance(error, KtbenchError) else 300)
    if isinstance(error, KtbenchError):
        return text
    kind = _printable(type(error).__name__, 100)
    description = f"{kind}: {text}" if text else kind
    if isinstance(error, BaseExceptionGroup):
        first = error.exceptions[0]
        description += f", the first: {_printable(type(first).__name__, 100)}: {_plain(first, 200)}"
    place = _place(error)
    return f"{description} ({place})" if place else description


def _plain(error: BaseException, most: int) -> str:
    """An error's own text; empty where even that raises."""
    try:
        return _printable(str(error), most)
    except BaseException:  # a user's class may do anything here
        return ""


def _printable(text: str, most: int) -> str:
    """First characters of a text on one line, escaped where they cannot be shown or stored."""
    return printable(" ".join(text[: 4 * most].split()))[:most]


def _place(error: BaseException) -> str:
    """File and line where an error was raised; empty where that is unknown."""
    try:
        frames = [
            frame
            for frame in traceback.extract_tb(error.__traceback__)
            if "torch" not in Path(frame.filename).parts
        ]
    except Exception:  # it reads source files through whatever loaders they have
        return ""
    if not frames:
        return ""
    return _printable(f"{Path(frames[-1].filename).name}:{frames[-1].lineno}", 200)


_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)


def canonical_json(value: Any) -> str:
    """Encode a value as its one JSON text: sorted keys, no spaces, no NaN."""
    return _ENCODER.encode(value)


def digest_of(value: Any) -> str:
    """Name a JSON value by 16 hexadecimal digits, equal on every machine."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:16]


class Record(BaseModel):
    """Base of every record: frozen, strict about unknown keys, every number finite."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )

    added_later: ClassVar[frozenset[str]] = frozenset()
    """Fields added after the first version: `canonical` omits them at their default, so that older
    keys stay what they were."""

    @cached_property
    def canonical(self) -> str:
        """`canonical_json` of the record."""
        return canonical_json(self._named())

    def _named(self) -> dict[str, Any]:
        """Return the fields that name the record."""
        return self.model_dump(mode="json", exclude=self._silent())

    def _silent(self) -> set[str]:
        fields = type(self).model_fields
        return {name for name in self.added_later if getattr(self, name) == fields[name].default}

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Copy as pydantic does, without values cached from the old fields (a cell's key)."""
        copied = super().model_copy(update=update, deep=deep)
        for name in set(copied.__dict__) - set(type(self).model_fields):
            del copied.__dict__[name]
        return copied


def without_unset(fields: dict[str, Any], *names: str) -> dict[str, Any]:
    """Leave out fields that hold nothing, as records did before there were such fields."""
    return {n: value for n, value in fields.items() if n not in names or value not in (None, {})}


class Composed(Record):
    """A record of records that others share: each part is encoded once."""

    @cached_property
    def canonical(self) -> str:
        """`canonical_json` of the record."""
        names = sorted(set(type(self).model_fields) - self._silent())
        values = ((name, getattr(self, name)) for name in names)
        parts = (f'"{name}":{_canonical(value)}' for name, value in values)
        return "{" + ",".join(parts) + "}"


def _canonical(value: Record | tuple[Record, ...] | JsonValue) -> str:
    if isinstance(value, Record):
        return value.canonical
    if isinstance(value, tuple) and all(isinstance(member, Record) for member in value):
        return "[" + ",".join(_canonical(member) for member in value) + "]"
    return canonical_json(value)
