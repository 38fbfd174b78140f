"""Cells of a matrix: the product of its axes, plus `include`, less `exclude`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from itertools import product
from typing import NamedTuple

from ktbench.catalogue import nearest
from ktbench.matrix.axes import Axes, AxesResolver, windows_of
from ktbench.matrix.cell_settings import reads_teacher
from ktbench.matrix.file_problems import KeyPath
from ktbench.matrix.items import METHODS, STUDENTS, Kind
from ktbench.matrix.models import Include, ItemEntry, Rule
from ktbench.matrix.weights_files import FRESH, StartPoint, name_of
from ktbench.records import Ensemble, Item, Teacher, TrainSpec, Window


class Place(NamedTuple):
    """Coordinates of a cell: labels, the teacher's name, the seed, and the optional axes."""

    student: str
    method: str
    teacher: str | None
    seed: int
    views: int | None = None
    budget: int | None = None
    window: Window | None = None
    start: str = FRESH
    """`name_of` the origin of its first weights."""


@dataclass(frozen=True)
class Draft:
    """A cell before it is known whether it can be trained."""

    student: Item
    method: Item
    teacher: Teacher | Ensemble | None
    seed: int
    train: TrainSpec
    views: int | None = None
    """Coordinate on the axis of views."""
    budget: int | None = None
    """Coordinate on the axis of budgets."""
    window: Window | None = None
    """Coordinate on the axis of windows."""
    start: StartPoint = FRESH
    """Origin of the first weights."""
    has_own_epochs: bool = False
    """True for a control whose epochs an `include` gives, so that they are not worked out."""

    @property
    def place(self) -> Place:
        """Coordinates in the matrix."""
        name = self.teacher.name if self.teacher else None
        labels = (self.student.label, self.method.label, name)
        start = name_of(self.start)
        return Place(*labels, self.seed, self.views, self.budget, self.window, start)


class Rules:
    """Applies the rules of a matrix to its axes; problems go to the resolver."""

    def __init__(self, resolver: AxesResolver, axes: Axes) -> None:
        self.resolver = resolver
        self.matrix = resolver.matrix
        self.axes = axes
        self._reads: dict[str, bool] = {}
        self._needed: set[str] = set()

    def drafts(self) -> list[Draft]:
        """Return the cells by student, method, teacher, budget, window, views, seed and start."""
        axes, matrix = self.axes, self.matrix
        product_of_axes = self._block(axes, matrix.all_seeds, matrix.train)
        drafts = {draft.place: draft for draft in product_of_axes}
        for number, include in enumerate(matrix.include):
            self._include(include, ("include", number), drafts)
        self._refuse_without_teacher()
        excluded: set[Place] = set()
        for number, rule in enumerate(matrix.exclude):
            excluded |= self._excluded(rule, ("exclude", number), drafts)
        if len(excluded) == len(drafts) and not self.resolver.problems:
            self.resolver.add_problem((), "no cell is left: every one is excluded")
        return [draft for place, draft in drafts.items() if place not in excluded]

    def _refuse_without_teacher(self) -> None:
        if self._needed and not self.axes.teachers and not self.resolver.problems:
            names = sorted(self._needed)
            verb = "needs" if len(names) == 1 else "need"
            self.resolver.add_problem(
                (), f"{', '.join(names)} {verb} a teacher: name one in teachers"
            )

    def _block(self, axes: Axes, seeds: Sequence[int], train: TrainSpec) -> Iterable[Draft]:
        """Yield the product; a method that reads no teacher occurs once for all of them."""
        for student, method in product(axes.students, axes.methods):
            if self._reads_teacher(method):
                choices: Sequence[Teacher | Ensemble | None] = axes.teachers
                windows = axes.windows
                self._needed.add(method.label)
            else:
                choices, windows = (None,), (None,)
            rest = (axes.budgets, windows, axes.views, seeds, axes.starts)
            for teacher, budget, window, views, seed, start in product(choices, *rest):
                changes = {"views": views, "epochs": budget}
                changes = {name: value for name, value in changes.items() if value is not None}
                changed = train.model_copy(update=changes) if changes else train
                yield Draft(student, method, teacher, seed, changed, views, budget, window, start)

    def _reads_teacher(self, method: Item) -> bool:
        if method.label not in self._reads:
            self._reads[method.label] = reads_teacher(
                method, self.resolver.base, unknown=bool(self.axes.teachers)
            )
        return self._reads[method.label]

    # ------------------------------------------------------------ exclude

    def _excluded(self, rule: Rule, path: KeyPath, drafts: dict[Place, Draft]) -> set[Place]:
        """Return the cells that a rule takes out."""
        patterns = (rule.student, rule.method, rule.teacher, rule.seed, rule.budget, rule.start)
        if not any(patterns) and rule.windowed is None:
            self.resolver.add_problem(path, "says nothing: give student, method, teacher or seed")
            return set()
        before = len(self.resolver.problems)
        students = {d.student.label: d.student for d in drafts.values()}
        methods = {d.method.label: d.method for d in drafts.values()}
        axis = [epochs for epochs in self.axes.budgets if epochs is not None]
        for number, epochs in enumerate(rule.budget):
            place = (*path, "budget", number)
            self._require_match(place, str(epochs), epochs in axis, map(str, axis))
        sides = (
            self._labels(rule.student, list(students.values()), (*path, "student")),
            self._labels(rule.method, list(methods.values()), (*path, "method")),
            self._names(rule.teacher, (*path, "teacher")),
            set(rule.seed) if rule.seed else None,
            None,  # an exclusion holds for all views
            set(rule.budget) if rule.budget else None,
        )
        starts = self._matching_starts(rule.start, (*path, "start"), drafts.values())
        excluded = {
            place
            for place in drafts
            if all(side is None or at in side for side, at in zip(sides, place, strict=False))
            and rule.windowed in (None, place.window is not None)
            and (not rule.start or place.start in starts)
        }
        if not excluded and len(self.resolver.problems) == before:
            self.resolver.add_problem(path, "excludes nothing: no cell matches all of its keys")
        return excluded

    def _labels(
        self, patterns: Sequence[str], items: Sequence[Item], path: KeyPath
    ) -> set[str] | None:
        """Return the labels of matching items; None without patterns."""
        if not patterns:
            return None
        labels: set[str] = set()
        for number, pattern in enumerate(patterns):
            matched = [item for item in items if _matches(pattern, item.name, item.label)]
            names = [item.label for item in items] + [item.name for item in items]
            self._require_match((*path, number), pattern, matched, names)
            labels |= {item.label for item in matched}
        return labels

    def _names(self, patterns: Sequence[str], path: KeyPath) -> set[str | None] | None:
        """Return the names of matching teachers; None without patterns."""
        if not patterns:
            return None
        return {teacher.name for teacher in self._matching_teachers(patterns, path)}

    def _matching_teachers(
        self, patterns: Sequence[str], path: KeyPath
    ) -> list[Teacher | Ensemble]:
        teachers: dict[str, Teacher | Ensemble] = {}
        for number, pattern in enumerate(patterns):
            matched = [t for t in self.axes.teachers if _matches(pattern, t.name)]
            names = [teacher.name for teacher in self.axes.teachers]
            self._require_match((*path, number), pattern, matched, names)
            teachers |= {teacher.name: teacher for teacher in matched}
        return list(teachers.values())

    def _matching_starts(
        self, patterns: Sequence[str], path: KeyPath, drafts: Iterable[Draft]
    ) -> set[str]:
        """Return `name_of` the starts that patterns match: by label, or by the file's path."""
        starts = {name_of(draft.start): draft.start for draft in drafts} if patterns else {}
        matching: set[str] = set()
        for number, pattern in enumerate(patterns):
            matched = {name for name, one in starts.items() if _matches(pattern, *_words(one))}
            words = [word for one in starts.values() for word in _words(one)]
            self._require_match((*path, number), pattern, matched, words)
            matching |= matched
        return matching

    def _require_match(
        self, path: KeyPath, pattern: str, matched: object, names: Iterable[str]
    ) -> None:
        if not matched:
            close = nearest(pattern, dict.fromkeys(names))
            hint = f": did you mean {' or '.join(close)}?" if close else ""
            self.resolver.add_problem(path, f"{pattern!r} matches nothing of this matrix{hint}")

    # ------------------------------------------------------------ include

    def _include(self, rule: Include, path: KeyPath, drafts: dict[Place, Draft]) -> None:
        before = len(self.resolver.problems)
        axes = self._block_axes(rule, path)
        train = self.resolver.train(rule.train, (*path, "train"))
        if len(self.resolver.problems) > before:
            return
        seeds = rule.seed or self.matrix.all_seeds
        changed = False
        for draft in self._block(axes, seeds, train):
            if "epochs" in rule.train and self.resolver.controlled_start(draft.student):
                draft = replace(draft, has_own_epochs=True)
            old = drafts.get(draft.place)
            if old is None:
                drafts[draft.place] = draft
                changed = True
            elif rule.train and old != draft:
                drafts[draft.place] = replace(
                    old, train=draft.train, has_own_epochs=draft.has_own_epochs
                )
                changed = True
        if not changed:
            self.resolver.add_problem(
                path, "changes nothing: its cells are in the matrix as they are"
            )

    def _block_axes(self, rule: Include, path: KeyPath) -> Axes:
        """Return the matrix's axes, replaced where a block names its own."""
        axes = self.axes
        students = self._added(STUDENTS, rule.student, axes.students, (*path, "student"))
        methods = self._added(METHODS, rule.method, axes.methods, (*path, "method"))
        teachers = self._matching_teachers(rule.teacher, (*path, "teacher"))
        views = tuple(None if views == "fresh" else views for views in rule.views)
        windows = tuple(window for grid in rule.distill for window in windows_of(grid))
        self._require_members(rule.budget, axes.budgets, (*path, "budget"))
        self._require_members(views, axes.views, (*path, "views"))
        self._require_members(windows, axes.windows, (*path, "distill"))
        starts = self.resolver.starts(rule.start, (*path, "start"))
        matrices = [one for one in starts if isinstance(one, str) and one != FRESH]
        self._require_members(matrices, axes.starts, (*path, "start"))
        return replace(
            axes,
            students=tuple(students),
            methods=tuple(methods),
            teachers=tuple(teachers) or axes.teachers,
            budgets=rule.budget or axes.budgets,
            views=views or axes.views,
            windows=windows or axes.windows,
            starts=tuple(starts) or axes.starts,
        )

    def _require_members(
        self, members: Sequence[object], axis: Sequence[object], path: KeyPath
    ) -> None:
        """Add a problem where a member is not on the axis."""
        if any(member not in axis for member in members):
            self.resolver.add_problem(path, f"names what is not in the matrix's {path[-1]}")

    def _added(
        self, kind: Kind, entries: Sequence[ItemEntry], axis: Sequence[Item], path: KeyPath
    ) -> list[Item]:
        """Return matching items of the axis, or new ones; the whole axis without entries."""
        if not entries:
            return list(axis)
        items: dict[str, Item] = {}
        for number, entry in enumerate(entries):
            matched = (
                [item for item in axis if _matches(entry.name, item.name, item.label)]
                if not entry.settings
                else []
            )
            new = matched or self.resolver.variants(kind, entry, (*path, number))
            items |= {item.label: item for item in new}
        return list(items.values())


def _words(start: StartPoint) -> tuple[str, ...]:
    return (start,) if isinstance(start, str) else (start.label, start.file)


def _matches(pattern: str, *names: str) -> bool:
    return any(name == pattern or fnmatchcase(name, pattern) for name in names)
