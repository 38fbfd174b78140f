"""Trainings of another matrix from whose weights the cells of this one begin."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ktbench.matrix.file_problems import KeyPath, Problem
from ktbench.matrix.include_rules import Draft
from ktbench.matrix.models import Matrix
from ktbench.matrix.weights_files import FRESH
from ktbench.records import Cell, Plan, Teacher


@dataclass(frozen=True)
class Starts:
    """Trainings of the matrices that `start` names."""

    by_student: Mapping[str, Mapping[tuple[str, int], list[Teacher]]]
    """Trainings by matrix, then by student (canonical text) and seed."""

    @classmethod
    def of(cls, matrix: Matrix, plan: Callable[[Matrix], Plan]) -> Starts:
        """Plan the matrices that `start` names."""
        plans = {name: plan(other) for name, other in matrix.others.items()}
        several = len(plans) > 1
        prefixes = {name: f"{p.name}: " if several else "" for name, p in plans.items()}
        return cls({name: _by_student(p.cells, prefixes[name]) for name, p in plans.items()})

    def of_draft(self, draft: Draft) -> Sequence[Teacher | None]:
        """Return the trainings that a cell is tried from; None stands for no training."""
        if not isinstance(draft.start, str) or draft.start == FRESH:
            return (None,)
        return self.by_student[draft.start].get((draft.student.canonical, draft.seed), ())

    def problems(self, matrix: Matrix, drafts: Collection[Draft]) -> Iterator[Problem]:
        """Find the students and seeds of which a matrix has no training."""
        for number, entry in enumerate(matrix.start):
            if not isinstance(entry, str) or entry == FRESH:
                continue
            known, path = self.by_student[entry], ("start", number)
            trained = {canonical for canonical, _ in known}
            beginning = [draft for draft in drafts if draft.start == entry]
            seeds = sorted({draft.seed for draft in beginning})
            for student in {d.student.canonical: d.student for d in beginning}.values():
                if student.canonical not in trained:
                    yield Problem(path, f"{entry} trains no {student.label}")
                    continue
                missing = [s for s in seeds if (student.canonical, s) not in known]
                if missing:
                    told = ", ".join(map(str, missing[:5])) + (", ..." if missing[5:] else "")
                    message = f"{entry} trains no {student.label} with seed {told}"
                    yield Problem(path, message)


def _by_student(cells: Sequence[Cell], prefix: str) -> dict[tuple[str, int], list[Teacher]]:
    """Group trainings by student and seed, each with a name that its group has once."""
    groups: dict[tuple[str, int], list[Teacher]] = {}
    names = _names(cells)
    for cell, name in zip(cells, names, strict=True):
        teacher = Teacher(name=f"{prefix}{name}", cell=cell)
        groups.setdefault((cell.student.canonical, cell.seed), []).append(teacher)
    return groups


def _names(cells: Sequence[Cell]) -> list[str]:
    """Name trainings by what they differ in, their student and seed left out."""
    several = len({teacher.name for cell in cells for teacher in cell.teachers}) > 1
    names = [_name(cell, teacher=several) for cell in cells]
    once = Counter(
        (cell.student.canonical, cell.seed, name) for cell, name in zip(cells, names, strict=True)
    )
    return [
        name if once[cell.student.canonical, cell.seed, name] == 1 else f"{name} ({cell.key[:6]})"
        for cell, name in zip(cells, names, strict=True)
    ]


def _name(cell: Cell, *, teacher: bool) -> str:
    """`kd, 0-0.2, 8 epochs`."""
    parts = [cell.method.label]
    if cell.teacher is not None and teacher:
        parts[0] += f" ← {cell.teacher.name}"
    if (window := cell.distill) is not None:
        kept = " keep" if window.scale == "keep" else ""
        parts.append(f"{window.start:g}-{window.end:g}{kept}")
    parts.append(f"{cell.train.epochs} epoch{'s' if cell.train.epochs > 1 else ''}")
    if cell.train.views is not None:
        parts.append(f"{cell.train.views} views")
    if cell.pretrained is not None:
        parts.append(f"from {cell.pretrained.name}")
    if cell.from_file is not None:
        parts.append(f"from {cell.from_file.label}")
    return ", ".join(parts)


def load_others(
    matrix: Matrix,
    load: Callable[[Path, tuple[Path, ...]], Matrix | str],
    within: tuple[Path, ...],
) -> tuple[dict[str, Matrix], list[Problem]]:
    """Load the matrices that `start` names, each once; `load` returns what is wrong with one.

    `within` are the files that are being loaded already, as one may not start from itself.
    """
    others: dict[str, Matrix] = {}
    problems: list[Problem] = []
    for number, entry in enumerate(matrix.start):
        path: KeyPath = ("start", number)
        if not isinstance(entry, str) or entry == FRESH or entry in matrix.start[:number]:
            continue
        file = Path(matrix.origin.base, entry).resolve()
        if file.parent != Path(matrix.origin.base).resolve():
            message = f"{entry} must lie in this file's folder: paths start from there"
            problems.append(Problem(path, message))
        elif file in within:
            problems.append(Problem(path, f"{entry} starts from itself: name another"))
        else:
            loaded = load(Path(matrix.origin.base, entry), (*within, file))
            if isinstance(loaded, str):
                problems.append(Problem(path, loaded))
            else:
                others[entry] = loaded
    return others, problems
