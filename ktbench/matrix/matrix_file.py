"""Load a matrix file into a checked `Matrix`, and report all its problems at once."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ktbench import catalogue
from ktbench.matrix.axes import device_spec
from ktbench.matrix.file_problems import KeyPath, Origin, Problem, problems_of
from ktbench.matrix.items import METHODS, STUDENTS, variants
from ktbench.matrix.models import ItemEntry, Matrix
from ktbench.matrix.planning import find_problems
from ktbench.matrix.starts import load_others
from ktbench.matrix.yaml_reader import parse, read
from ktbench.records import KtbenchError


@dataclass(frozen=True)
class MatrixText:
    """Text of a matrix that lies in no file, with the names by which its problems are told."""

    text: str
    file: str = "matrix.yaml"
    base: str = "."
    """Folder that relative paths start from."""

    def __str__(self) -> str:
        return self.file


def load(matrix: Path | MatrixText) -> Matrix:
    """Load and check a matrix file, or its text; raises MatrixError with every problem."""
    if isinstance(matrix, MatrixText):
        return loads(matrix.text, file=matrix.file, base=matrix.base)
    return _loaded(Path(matrix), (Path(matrix).resolve(),))


def loads(text: str, *, file: str = "matrix.yaml", base: str = ".") -> Matrix:
    """Load and check the text of a matrix file; raises MatrixError with every problem."""
    return _validated(*parse(text, Origin(file=file, base=base)), ())


def _loaded(path: Path, within: tuple[Path, ...]) -> Matrix:
    return _validated(*read(path), within)


def _other(path: Path, within: tuple[Path, ...]) -> Matrix | str:
    """Load a matrix that another one names, or return the first thing that is wrong with it."""
    try:
        return _loaded(path, within)
    except KtbenchError as error:
        return str(error).splitlines()[0]


def _validated(values: dict[str, Any], origin: Origin, within: tuple[Path, ...]) -> Matrix:
    not_finite = list(_not_finite(values, ()))
    try:
        matrix = Matrix.model_validate(values).at(origin)
    except ValidationError as error:
        problems = [*problems_of(error, Matrix), *_name_problems(values, origin.base)]
        raise origin.error(_merged(not_finite, problems, origin)) from error
    matrix = _with_task_code(matrix)
    others, missing = load_others(matrix, _other, within)
    problems = _merged(not_finite, [*find_problems(matrix.beside(others)), *missing], origin)
    if problems:
        raise origin.error(problems)
    return matrix


def _with_task_code(matrix: Matrix) -> Matrix:
    """Return a matrix whose task names the content of its files; unreadable ones are told later."""
    task = matrix.data.task
    try:
        code = catalogue.task_code(task, matrix.origin.base)
    except KtbenchError:
        return matrix
    if code is None:
        return matrix
    data = matrix.data.model_copy(update={"task": task.model_copy(update={"code": code})})
    return matrix.model_copy(update={"data": data})


def _merged(first: list[Problem], others: list[Problem], origin: Origin) -> list[Problem]:
    """Join problems, without others at the places of the first."""
    places = {origin.place(problem.path) for problem in first}
    return [*first, *(p for p in others if origin.place(p.path) not in places)]


def _name_problems(values: dict[str, Any], base: str) -> Iterator[Problem]:
    """Check the names in a file that is not a valid matrix yet."""
    for path, entry in _entries(values, "students"):
        if catalogue.teacher_setting(entry.name) is not None:
            continue  # it cannot be checked without the teachers
        yield from (p.under(*path) for p in variants(STUDENTS, entry, base)[1])
    for path, entry in _entries(values, "methods"):
        yield from (p.under(*path) for p in variants(METHODS, entry, base)[1])
    for path, entry in _entries(values, "devices"):
        yield from (p.under(*path) for p in device_spec(entry)[1])
    teachers = values.get("teachers")
    for i, teacher in enumerate(teachers if isinstance(teachers, list) else [teachers]):
        if isinstance(teacher, dict):
            for path, entry in _entries(teacher, "student"):
                problems = variants(STUDENTS, entry, base)[1]
                yield from (p.under("teachers", i, *path) for p in problems)


def _entries(values: dict[str, Any], key: str) -> Iterator[tuple[KeyPath, ItemEntry]]:
    """Yield the well-formed entries below a key."""
    entries = values.get(key)
    for i, entry in enumerate(entries if isinstance(entries, list) else [entries]):
        try:
            yield (key, i), ItemEntry.model_validate(entry)
        except ValidationError:
            continue


def _not_finite(value: Any, path: KeyPath) -> Iterator[Problem]:
    """Find numbers that overflow to infinity, and words such as `inf` and `nan`."""
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
