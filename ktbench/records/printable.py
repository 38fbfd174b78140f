"""Text that is safe to show: no terminal control characters, and names that are only names."""

from __future__ import annotations

import re
import unicodedata
from typing import Annotated

from pydantic import AfterValidator, Field, StringConstraints

LONGEST_NAME = 200
"""Longest name in bytes of UTF-8, which leaves room for the endings of file names."""
LARGEST = 2**63 - 1
"""Largest whole number that tables and records of every kind hold."""

_UNSEEN = ("Cc", "Cs", "Zl", "Zp")
"""Unicode's categories of control characters, half characters and line separators."""
_TURNING = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Characters that change the direction of the text beside them."""
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)
"""Names that some file systems take for a device, with any ending."""


def _acts(character: str) -> bool:
    return character in _TURNING or unicodedata.category(character) in _UNSEEN


def printable(text: str) -> str:
    """Escape characters that a terminal acts on (`\\x1b`), except line breaks."""
    if text.isprintable():
        return text
    return "".join(
        c.encode("unicode_escape").decode("ascii") if c != "\n" and _acts(c) else c for c in text
    )


def unprintable(text: str) -> str | None:
    """Return the first character that a terminal acts on, as `U+001B`, or None."""
    if text.isprintable():
        return None
    return next((f"U+{ord(c):04X}" for c in text if _acts(c)), None)


# ---------------------------------------------------------------- names


def objection(name: str) -> str | None:
    """Say why a text cannot be a name, which tables must show whole, or None."""
    if not name or name.isspace():
        return "must not be empty"
    if (code := unprintable(name)) is not None:
        return f"holds the control character {code}: leave it out"
    if name != name.strip():
        return "must not begin or end with a space"
    if len(name.encode()) > LONGEST_NAME:
        return f"must be at most {LONGEST_NAME} bytes long, not {len(name.encode())}"
    return None


def folder_objection(name: str) -> str | None:
    """Say why a text cannot name a folder on every system, or None: a name is never a path."""
    if (reason := objection(name)) is not None:
        return reason
    if "/" in name or "\\" in name:
        return "is a name, not a path: leave out / and \\"
    if name.startswith(".") or name.endswith("."):
        return "must neither begin nor end with a dot"
    if _RESERVED.fullmatch(name):
        return f"{name!r} stands for a device on some systems: choose another name"
    return None


def _name(text: str) -> str:
    if (reason := objection(text)) is not None:
        raise ValueError(reason)
    return text


def _folder_name(text: str) -> str:
    if (reason := folder_objection(text)) is not None:
        raise ValueError(reason)
    return text


Name = Annotated[str, AfterValidator(_name)]
"""A name as tables show it: one line, seen whole."""
FolderName = Annotated[str, AfterValidator(_folder_name)]
"""A name that a results folder may have."""
Line = Annotated[str, StringConstraints(min_length=1, max_length=4096)]
"""A path or an address, of bounded length."""
Whole = Annotated[int, Field(strict=True)]
"""A whole number that is written as one: not true, '5' or 5.0."""
Count = Annotated[Whole, Field(ge=1, le=10**9)]
"""A count of at least one."""
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
"""A finite number that is written as one."""
Flag = Annotated[bool, Field(strict=True)]
"""`true` or `false`, and nothing that stands for them."""
