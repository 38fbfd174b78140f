"""How many cells a matrix asks for, counted before any of them is made."""

from __future__ import annotations

from collections.abc import Sequence

from ktbench.matrix.document import KeyPath, Problem
from ktbench.matrix.items import METHODS, STUDENTS, Kind, count
from ktbench.matrix.models import Include, ItemEntry, Matrix, TeacherEntry, WindowGrid
from ktbench.matrix.teachers import trainings

MOST_CELLS = 100_000
"""Of a plan."""
MOST_TEACHERS = 10_000
_YEAR_S = 31_557_600


def oversize(matrix: Matrix) -> list[Problem]:
    """What asks for more than a plan may hold, each with what it would take; no item is built."""
    base = matrix.origin.base
    students = _items(STUDENTS, matrix.students, base)
    methods = 1 + _items(METHODS, matrix.methods, base)
    teachers = sum(_teachers(entry, base) for entry in matrix.teachers)
    if teachers > MOST_TEACHERS:
        return [_problem(("teachers",), teachers, "teachers", MOST_TEACHERS)]
    rest = (len(matrix.views), len(matrix.budget), _windows(matrix.distill))
    cells = _product(students, methods, teachers, len(matrix.seeds), *rest)
    if cells > MOST_CELLS:
        return [_problem((), cells, "cells", MOST_CELLS)]
    found = []
    for number, include in enumerate(matrix.include):
        own = _block(include, base, matrix, (students, methods, teachers))
        if own > MOST_CELLS:
            found.append(_problem(("include", number), own, "cells", MOST_CELLS))
    return found


def _block(include: Include, base: str, matrix: Matrix, axes: tuple[int, int, int]) -> int:
    """At most: a pattern may match the whole of an axis."""
    students, methods, teachers = axes
    return _product(
        students + _items(STUDENTS, include.student, base) if include.student else students,
        methods + _items(METHODS, include.method, base) if include.method else methods,
        teachers,
        len(include.seed or matrix.seeds),
        len(include.views or matrix.views),
        len(include.budget or matrix.budget),
        _windows(include.distill or matrix.distill),
    )


def _product(*lengths: int) -> int:
    """An axis that is not there has one place."""
    total = 1
    for length in lengths:
        total *= max(1, length)
    return total


def _items(kind: Kind, entries: Sequence[ItemEntry], base: str) -> int:
    return sum(count(kind, entry, base) for entry in entries)


def _teachers(entry: TeacherEntry, base: str) -> int:
    if entry.student is None:
        return len(entry.sample) + sum(_teachers(member, base) for member in entry.of)
    return count(STUDENTS, entry.student, base) * trainings(entry)


def _windows(grids: Sequence[WindowGrid]) -> int:
    return sum(len(grid.start) * len(grid.end) * len(grid.scale) for grid in grids)


def _problem(path: KeyPath, size: int, what: str, most: int) -> Problem:
    return Problem(
        path,
        f"asks for {_figure(size)} {what}, more than the {most:,} that a plan may hold: at a "
        f"second each they take {_duration(size)}; leave values out, or split the matrix",
    )


def _figure(size: int) -> str:
    return f"{size:,}" if size < 10**15 else f"{float(size):.1e}" if size < 10**300 else "countless"


def _duration(seconds: int) -> str:
    if seconds < _YEAR_S:
        return f"{seconds / 86400:.1f} days"
    return f"{_figure(seconds // _YEAR_S)} years"
