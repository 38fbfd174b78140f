"""From a matrix file to a checked `Matrix`, with every problem of the file told at once."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ktbench import catalogue
from ktbench.matrix.axes import device_spec
from ktbench.matrix.document import KeyPath, Origin, Problem, parse, read
from ktbench.matrix.errors import problems_of
from ktbench.matrix.items import METHODS, STUDENTS, variants
from ktbench.matrix.models import ItemEntry, Matrix
from ktbench.matrix.planning import checked


def load(path: Path) -> Matrix:
    """A matrix whose names, settings and rules are all in order; raises MatrixError."""
    return _validated(*read(Path(path)))


def loads(text: str, *, file: str = "matrix.yaml", base: str = ".") -> Matrix:
    """As `load`, of a text."""
    return _validated(*parse(text, Origin(file=file, base=base)))


def _validated(values: dict[str, Any], origin: Origin) -> Matrix:
    endless = list(_not_finite(values, ()))
    try:
        matrix = Matrix.model_validate(values).at(origin)
    except ValidationError as error:
        problems = [*problems_of(error, Matrix), *_names(values, origin.base)]
        raise origin.error(_with(endless, problems, origin)) from error
    problems = _with(endless, checked(matrix), origin)
    if problems:
        raise origin.error(problems)
    return matrix


def _with(endless: list[Problem], problems: list[Problem], origin: Origin) -> list[Problem]:
    """All problems; of a number that is not finite, nothing else is said."""
    said = {origin.place(problem.path) for problem in endless}
    return [*endless, *(p for p in problems if origin.place(p.path) not in said)]


def _names(values: dict[str, Any], base: str) -> Iterator[Problem]:
    """What is wrong with the names of a file that is not a matrix yet."""
    for path, entry in _entries(values, "students"):
        if catalogue.teacher_setting(entry.name) is not None:
            continue  # it cannot be told without the teachers
        yield from (p.under(*path) for p in variants(STUDENTS, entry, base)[1])
    for path, entry in _entries(values, "methods"):
        yield from (p.under(*path) for p in variants(METHODS, entry, base)[1])
    for path, entry in _entries(values, "devices"):
        yield from (p.under(*path) for p in device_spec(entry)[1])
    teachers = values.get("teachers")
    for i, teacher in enumerate(teachers if isinstance(teachers, list) else [teachers]):
        if isinstance(teacher, dict):
            for path, entry in _entries(teacher, "student"):
                found = variants(STUDENTS, entry, base)[1]
                yield from (p.under("teachers", i, *path) for p in found)


def _entries(values: dict[str, Any], key: str) -> Iterator[tuple[KeyPath, ItemEntry]]:
    """The entries below a key that are well formed."""
    given = values.get(key)
    for i, entry in enumerate(given if isinstance(given, list) else [given]):
        try:
            yield (key, i), ItemEntry.model_validate(entry)
        except ValidationError:
            continue


def _not_finite(value: Any, path: KeyPath) -> Iterator[Problem]:
    """Numbers too large to be finite, and words that stand for such, where a number is meant."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _not_finite(inner, (*path, key))
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from _not_finite(inner, (*path, i))
    elif isinstance(value, float) and not math.isfinite(value):
        yield Problem(path, "must be a finite number")
    elif isinstance(value, str) and value.lower().lstrip("+-.") in ("inf", "infinity", "nan"):
        yield Problem(path, f"must be a finite number, not {value!r}")
