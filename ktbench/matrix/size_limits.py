"""Size limits of a matrix: cells are counted before any is built, samples before any is read."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from ktbench import catalogue
from ktbench.data import DataInfo
from ktbench.matrix.file_problems import KeyPath, Problem
from ktbench.matrix.items import METHODS, STUDENTS, Kind, count
from ktbench.matrix.models import Include, ItemEntry, Matrix, TeacherEntry, WindowGrid
from ktbench.matrix.teachers import teachers_per_network
from ktbench.records import DataSpec
from ktbench.system.machine import all_memory
from ktbench.tasks._contract import Signature

MOST_CELLS = 100_000
"""Most cells of a plan."""
MOST_TEACHERS = 10_000
_YEAR_S = 31_557_600


def size_problems(matrix: Matrix) -> list[Problem]:
    """List what asks for more than a plan may hold, with the time it would take."""
    base = matrix.origin.base
    students = _items(STUDENTS, matrix.students, base)
    methods = 1 + _items(METHODS, matrix.methods, base)
    teachers = sum(_teachers(entry, base) for entry in matrix.teachers)
    if teachers > MOST_TEACHERS:
        return [_problem(("teachers",), teachers, "teachers", MOST_TEACHERS)]
    axes = (matrix.views, matrix.budget, matrix.start)
    rest = (*map(len, axes), _windows(matrix.distill))
    cells = _product(students, methods, teachers, len(matrix.all_seeds), *rest)
    if cells > MOST_CELLS:
        return [_problem((), cells, "cells", MOST_CELLS)]
    problems = []
    for number, include in enumerate(matrix.include):
        size = _block(include, base, matrix, (students, methods, teachers))
        if size > MOST_CELLS:
            problems.append(_problem(("include", number), size, "cells", MOST_CELLS))
    return problems


def _block(include: Include, base: str, matrix: Matrix, axes: tuple[int, int, int]) -> int:
    """Bound the cells of a block from above: a pattern may match the whole of an axis."""
    students, methods, teachers = axes
    return _product(
        students + _items(STUDENTS, include.student, base) if include.student else students,
        methods + _items(METHODS, include.method, base) if include.method else methods,
        teachers,
        len(include.seed or matrix.all_seeds),
        len(include.views or matrix.views),
        len(include.budget or matrix.budget),
        len(include.start or matrix.start),
        _windows(include.distill or matrix.distill),
    )


def _product(*lengths: int) -> int:
    """Multiply lengths of axes; an absent axis counts as one."""
    return math.prod(max(1, length) for length in lengths)


def _items(kind: Kind, entries: Sequence[ItemEntry], base: str) -> int:
    return sum(count(kind, entry, base) for entry in entries)


def _teachers(entry: TeacherEntry, base: str) -> int:
    if entry.student is None:
        return len(entry.sample) + sum(_teachers(member, base) for member in entry.of)
    return count(STUDENTS, entry.student, base) * teachers_per_network(entry)


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


# ---------------------------------------------------------------- samples in memory


def sample_problems(data: DataSpec, info: DataInfo) -> Iterator[Problem]:
    """Refuse samples that do not fit in memory, and what their task cannot do with them.

    Paths start below `data`.
    """
    samples, told = info.train_size + info.validation_size + info.test_size, info.signature
    held, most = samples * told.values, all_memory()
    if held > most:
        path = ("image_size",) if data.image_size is not None else ()
        yield Problem(
            path,
            f"{samples:,} {told.noun}s of {told.size} take {held / 1e9:,.0f} GB of memory, and "
            f"this machine has {most / 1e9:,.0f} GB: make {_key(told)} or train_size smaller",
        )
    problem = catalogue.task(data.task).problem(data, told)
    if problem is not None:
        yield Problem(*problem)


def batch_problems(matrix: Matrix, info: DataInfo) -> Iterator[Problem]:
    """Refuse a batch that alone does not fit this machine, and trainings that suit no such task."""
    size, told = min(matrix.train.batch_size, info.train_size), info.signature
    held, most = 4 * size * told.values, all_memory() // 2
    if held > most:
        yield Problem(
            ("train", "batch_size"),
            f"{size:,} {told.noun}s of {told.size} take {held / 1e9:,.0f} GB of memory, more than "
            f"half of this machine's: make batch_size or {_key(told)} smaller",
        )
    problem = catalogue.task(matrix.data.task).training_problem(matrix.train)
    if problem is not None:
        key, message = problem
        yield Problem(("train", key), message)


def _key(signature: Signature) -> str:
    """Name the key below `data` that makes samples smaller."""
    return signature.sized_by.rpartition(".")[2]
