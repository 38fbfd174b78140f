"""Field types of records, with bounds that refuse impossible values."""

from __future__ import annotations

import math
from datetime import datetime
from pathlib import PurePosixPath
from typing import Annotated

from pydantic import AfterValidator, Field, JsonValue

from ktbench.records.printable import printable, unprintable

LONGEST_WORDS = 2_000
"""Longest reason or note, in characters; the rest is cut."""
_LONGEST_PATH = 1_024
_YEARS = range(2000, 2200)


def _one_line_name(text: str) -> str:
    if (code := unprintable(text)) is not None:
        raise ValueError(f"holds the control character {code}")
    return text


def _words(text: str) -> str:
    if len(text) > LONGEST_WORDS:
        text = text[: LONGEST_WORDS - 1] + "…"
    return text if text.isprintable() else printable(" ".join(text.split()))


def _moment(text: str) -> str:
    if datetime.fromisoformat(text).year not in _YEARS:
        raise ValueError(f"is not a time of the years {_YEARS.start} to {_YEARS.stop - 1}")
    return text


def _inside(path: str) -> str:
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\\" in path:
        raise ValueError("must be a path inside the results folder")
    if len(path) > _LONGEST_PATH or printable(path) != path:
        raise ValueError("must be a plain path")
    return path


def _finite(value: dict[str, JsonValue]) -> dict[str, JsonValue]:
    for part in value.values():
        require_finite(part)
    return value


def require_finite(value: JsonValue) -> JsonValue:
    """Return the value; raises ValueError where it holds NaN or an infinity, which JSON cannot."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("must hold finite numbers")
    if isinstance(value, list):
        for part in value:
            require_finite(part)
    elif isinstance(value, dict):
        _finite(value)
    return value


Whole = Annotated[int, Field(ge=-(2**63), lt=2**63)]
"""An integer that a table's column can hold."""
Count = Annotated[int, Field(ge=0, lt=2**63)]
Positive = Annotated[int, Field(ge=1, lt=2**63)]
Share = Annotated[float, Field(ge=0, le=1)]
Amount = Annotated[float, Field(ge=0, le=1e18)]
"""Seconds, milliseconds, joules: finite and never negative."""
Figure = Annotated[float, Field(ge=-1e18, le=1e18)]
"""A figure of a task's metric; its range is the metric's (`Metric.objection`)."""
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
"""16 hexadecimal digits."""
Name = Annotated[str, AfterValidator(_one_line_name), Field(max_length=4_096)]
"""One line without control characters."""
Words = Annotated[str, AfterValidator(_words)]
"""Free text of one line: control characters are escaped, what is too long is cut."""
Moment = Annotated[str, AfterValidator(_moment)]
"""A time in ISO 8601."""
Inside = Annotated[str, AfterValidator(_inside)]
"""A path below the results folder, with forward slashes."""
Facts = Annotated[dict[str, JsonValue], AfterValidator(_finite)]
"""JSON values by name, without NaN."""
Json = Annotated[JsonValue, AfterValidator(require_finite)]
