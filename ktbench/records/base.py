"""What every record is made of: canonical JSON, digests, and the two errors of the program."""

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
"""Of what is written to a results folder; its history stands in the package's docstring."""


class KtbenchError(Exception):
    """What went wrong, where, and what to do, in one line for the user.

    Whatever name or path it tells, its text holds nothing that a terminal acts on.
    """

    def __str__(self) -> str:
        """The text, free of control characters but for line breaks between problems."""
        return printable(super().__str__())


class StorageError(KtbenchError):
    """A file could not be written: the run stops, since going on would lose what comes next."""


OWN_ERRORS = (Exception, SystemExit, GeneratorExit, BaseExceptionGroup)
"""What a user's own code may raise; KeyboardInterrupt and what signal handlers raise are not."""


def one_line(error: BaseException) -> str:
    """An error for people: what ktbench raises says it all, anything else needs its kind and place.

    The place is the innermost line that is not torch's, so that users find it in a file of theirs.
    Whatever the error is, the line is valid UTF-8 of bounded length, without control characters.
    """
    text = _plain(error, 500 if isinstance(error, KtbenchError) else 300)
    if isinstance(error, KtbenchError):
        return text
    kind = _printable(type(error).__name__, 100)
    said = f"{kind}: {text}" if text else kind
    if isinstance(error, BaseExceptionGroup):
        first = error.exceptions[0]
        said += f", the first: {_printable(type(first).__name__, 100)}: {_plain(first, 200)}"
    place = _place(error)
    return f"{said} ({place})" if place else said


def _plain(error: BaseException, most: int) -> str:
    """An error's own text; empty where it cannot even say that."""
    try:
        return _printable(str(error), most)
    except BaseException:  # the text of a class of anyone's
        return ""


def _printable(text: str, most: int) -> str:
    """A text's first characters on one line; what cannot be shown or stored stands as an escape."""
    return printable(" ".join(text[: 4 * most].split()))[:most]


def _place(error: BaseException) -> str:
    """File and line; empty where nothing is known of it."""
    try:
        frames = [
            frame
            for frame in traceback.extract_tb(error.__traceback__)
            if "torch" not in Path(frame.filename).parts
        ]
    except Exception:  # it reads the files, as their loaders give them
        return ""
    if not frames:
        return ""
    return _printable(f"{Path(frames[-1].filename).name}:{frames[-1].lineno}", 200)


_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)


def canonical_json(value: Any) -> str:
    """The one JSON text of a value: sorted keys, no spaces, no NaN."""
    return _ENCODER.encode(value)


def digest_of(value: Any) -> str:
    """A 16-digit hexadecimal name for a JSON value, equal on every machine."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:16]


class Record(BaseModel):
    """Base of every record: frozen, strict about unknown keys, every number finite."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )

    added_later: ClassVar[frozenset[str]] = frozenset()
    """Fields that came after the first version: left out of `canonical` at their default, so that
    what was named before keeps its name."""

    @cached_property
    def canonical(self) -> str:
        """`canonical_json` of the record."""
        return canonical_json(self.model_dump(mode="json", exclude=self._silent()))

    def _silent(self) -> set[str]:
        fields = type(self).model_fields
        return {name for name in self.added_later if getattr(self, name) == fields[name].default}

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """As pydantic's, without what was worked out from the old values (a cell's key)."""
        copied = super().model_copy(update=update, deep=deep)
        for name in set(copied.__dict__) - set(type(self).model_fields):
            del copied.__dict__[name]
        return copied


class Composed(Record):
    """A record of records that others share: each part is written as text once."""

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
