"""Selection of some cells of a plan, by the words of `ktbench run --only`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase

from ktbench import catalogue
from ktbench.records import Cell, KtbenchError, Plan

_OUTSIDE_BRACKETS = re.compile(r",(?![^(\[{]*[)\]}])")

Names = Callable[[Cell], tuple[str, ...]]

_AXES: Mapping[str, Names] = {
    "student": lambda cell: (cell.student.name, cell.student.label),
    "method": lambda cell: (cell.method.name, cell.method.label),
    "teacher": lambda cell: (cell.teacher.name,) if cell.teacher else (),
    "seed": lambda cell: (str(cell.seed),),
    "cell": lambda cell: (cell.key, cell.label),
}
"""Names by which a word finds cells, per axis; bare words look at all of them but the seed."""
_BARE = ("student", "method", "teacher", "cell")


def only_cells(plan: Plan, words: str | Sequence[str]) -> frozenset[str]:
    """Return the keys of the cells that words name.

    `words` are patterns with commas between them, or a list of them: `kd,resnet8`,
    `teacher=resnet*`, `seed=0`. Words of one axis are alternatives, and the axes all have to agree:
    `kd,attention,resnet8` names the cells of `kd` and of `attention` for `resnet8`. A bare word is
    of the first axis (student, method, teacher, cell) that has such a name. Raises KtbenchError for
    a word that names nothing, and where no cell is left.
    """
    listed = [words] if isinstance(words, str) else list(words)
    asked = [w.strip() for text in listed for w in _OUTSIDE_BRACKETS.split(text) if w.strip()]
    by_axis: dict[str, list[str]] = {}
    for word in asked:
        axis, pattern = _placed(plan.cells, word)
        by_axis.setdefault(axis, []).append(pattern)
    chosen = frozenset(
        cell.key
        for cell in plan.cells
        if all(_matches(cell, axis, patterns) for axis, patterns in by_axis.items())
    )
    if not chosen:
        told = ", ".join(asked) or "nothing"
        raise KtbenchError(f"--only {told}: no cell of {plan.name} is all of this")
    return chosen


def _placed(cells: Sequence[Cell], word: str) -> tuple[str, str]:
    """Return the axis of a word and its pattern."""
    axis, equals, pattern = word.partition("=")
    if equals and axis.strip() in _AXES:
        axes, pattern = [axis.strip()], pattern.strip()
    else:
        axes, pattern = list(_BARE), word
    for axis in axes:
        if any(_matches(cell, axis, [pattern]) for cell in cells):
            return axis, pattern
    known = sorted({name for axis in axes if axis != "cell" for name in _names(cells, axis)})
    near = catalogue.nearest(pattern, known)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(known[:8])}"
    raise KtbenchError(f"--only {word}: names no cell: {hint}")


def _names(cells: Sequence[Cell], axis: str) -> Iterator[str]:
    for cell in cells:
        yield from _AXES[axis](cell)


def _matches(cell: Cell, axis: str, patterns: Sequence[str]) -> bool:
    names = _AXES[axis](cell)
    return any(name == p or fnmatchcase(name, p) for name in names for p in patterns)
