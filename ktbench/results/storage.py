"""Record files: JSON with a seal and the digests of the files that belong to the record.

A file is the record's JSON with two more entries at its end: `files` (path below the results
folder → size and SHA-256) and `seal`, the SHA-256 of every byte before it. A changed byte is told
when the record is read. Files of schema 1 have neither and are read as they are.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import ValidationError

from ktbench.records import SCHEMA, KtbenchError, Record, printable
from ktbench.system.files import UnsuitableFileError, digest_of_file, read_regular

MOST_BYTES = 32 * 2**20
"""Size limit of a record; a cell's has a few thousand bytes."""
MOST_OF_LOCK = 256 * 2**20

_Kind = TypeVar("_Kind", bound=Record)


class DamagedError(KtbenchError):
    """A file of the results folder does not hold what was written; `reason` says why."""

    def __init__(self, path: Path, reason: str, remedy: str = "run again to replace it") -> None:
        self.path, self.reason, self.remedy = path, reason, remedy
        super().__init__(f"{path}: is damaged ({reason}): restore it, or {remedy}")


@dataclass(frozen=True)
class Mark:
    """Size and SHA-256 (16 digits) of a file that belongs to a record."""

    bytes: int
    digest: str

    @classmethod
    def of(cls, path: Path) -> Mark:
        """The mark of a file as it is now."""
        return cls(*digest_of_file(path))


@dataclass(frozen=True)
class Stored(Generic[_Kind]):
    """A record as read from disk."""

    record: _Kind
    sealed: bool
    files: Mapping[str, Mark] = field(default_factory=dict)


# ---------------------------------------------------------------- writing


def sealed(record: Record, files: Mapping[str, Mark] | None = None, indent: int | None = 1) -> str:
    """The text of a record's file."""
    body = record.model_dump_json(indent=indent)
    head = body.rstrip().removesuffix("}").rstrip()
    if files is not None:
        listed = {path: [mark.bytes, mark.digest] for path, mark in sorted(files.items())}
        head += f',\n "files": {json.dumps(listed)}'
    return f'{head},\n "seal": "{_digest(head.encode())}"\n}}'


def marks_of(root: Path, paths: list[str]) -> dict[str, Mark]:
    """Marks of the files that exist."""
    marks = {}
    for path in paths:
        with suppress(OSError, UnsuitableFileError):
            about = (root / path).stat()
            marks[path] = _mark(root / path, about.st_mtime_ns, about.st_size, about.st_ino)
    return marks


@lru_cache(maxsize=256)
def _mark(path: Path, *_: int) -> Mark:
    """Cache marks, as many cells share a teacher's files."""
    return Mark.of(path)


# ---------------------------------------------------------------- reading

_EDITED = "was edited: its content is not that of its seal"
_SEAL = re.compile(rb',\n "seal": "([0-9a-f]{16})"\n\}\s*\Z')
_FILES = b',\n "files": '


def stored(
    kind: type[_Kind],
    path: Path,
    *,
    most: int = MOST_BYTES,
    remedy: str = "",
    newest: int = SCHEMA,
) -> Stored[_Kind]:
    """Read a record from its file.

    Raises DamagedError where it is not what was written, FileNotFoundError where it is not there,
    KtbenchError where it is of a newer ktbench or cannot be read.
    """
    remedies = (remedy,) if remedy else ()
    try:
        content = read_regular(path, most, follow=False)
    except UnsuitableFileError as error:
        raise DamagedError(path, unsuitable_reason(error), *remedies) from error
    except IsADirectoryError as error:
        raise DamagedError(path, "is a folder", *remedies) from error
    except FileNotFoundError:
        raise
    except OSError as error:
        raise KtbenchError(f"{path}: cannot read: {error.strerror}") from error
    body, seal, files = _opened(content)
    try:
        record = kind.model_validate_json(body)
    except ValidationError as error:
        refuse_newer(path, _version(content), newest)
        reason = _EDITED if seal is None and b'"seal"' in content else validation_reason(error)
        raise DamagedError(path, reason, *remedies) from error
    refuse_newer(path, getattr(record, "schema_version", SCHEMA), newest)
    unsealed = seal is None and getattr(record, "schema_version", 1) > 1
    if unsealed or (seal is not None and seal[0] != seal[1]):
        raise DamagedError(path, _EDITED, *remedies)
    try:
        return Stored(record, seal is not None, _marks(files))
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedError(path, "lists its files wrongly", *remedies) from error


def unsuitable_reason(error: UnsuitableFileError) -> str:
    """The error's description of the file, without its advice to name another one."""
    return error.what.partition(": ")[0]


def validation_reason(error: ValidationError) -> str:
    """The first validation error of a record, in one line."""
    first = error.errors(include_url=False, include_input=False)[0]
    if first["type"] == "json_invalid":
        return "no whole JSON"
    where = ".".join(str(part)[:40] for part in first["loc"][:8]) or "the file"
    return printable(f"{where}: {first['msg'].removeprefix('Value error, ')}")[:300]


def refuse_newer(path: Path, version: object, newest: int = SCHEMA) -> None:
    """Raise KtbenchError where a file is of a schema that this version does not know."""
    if isinstance(version, int) and version > newest:
        raise KtbenchError(
            f"{path}: written by a newer ktbench (schema {version}, this one knows {newest}): "
            "upgrade ktbench, or choose another --results folder"
        )


def _opened(content: bytes) -> tuple[bytes, tuple[str, str] | None, bytes]:
    """Split a file into the record's JSON, its seal (as stored, as computed) and its files."""
    match = _SEAL.search(content, max(0, len(content) - 64))
    if match is None:
        return content, None, b""
    head = content[: match.start()]
    body, _, files = head.partition(_FILES)
    return body + b"\n}", (match[1].decode(), _digest(head)), files


def _marks(files: bytes) -> dict[str, Mark]:
    return {p: Mark(int(m[0]), str(m[1])) for p, m in json.loads(files or b"{}").items()}


def _version(content: bytes) -> object:
    try:
        plain = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return plain.get("schema_version") if isinstance(plain, dict) else None


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
