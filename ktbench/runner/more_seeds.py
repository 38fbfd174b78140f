"""The matrix of the seeds that would settle a results folder's undecided comparisons."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from ktbench import catalogue
from ktbench.matrix import Matrix, load, loads
from ktbench.matrix import plan as make_plan
from ktbench.matrix.axes import AxesResolver
from ktbench.matrix.weights_files import FRESH, start_entry
from ktbench.matrix.yaml_reader import read
from ktbench.records import ACCURACY, Cell, Item, KtbenchError, Metric, Plan, Window
from ktbench.report.analysis import GROUP, Analysis
from ktbench.report.significance import UNDECIDED
from ktbench.results import load_results
from ktbench.runner.seed_race import place
from ktbench.system.files import write_atomically

HEAD = "# Written by `ktbench plan --settle`"


@dataclass(frozen=True)
class Comparison:
    """A comparison that more seeds may settle."""

    student: str
    method: str
    gain: float
    low: float | None
    high: float | None
    n: int
    settled_by: int
    """Number of seeds that settle it, those that have run included."""
    seeds: tuple[int, ...]
    """New seeds."""


@dataclass(frozen=True)
class Settlement:
    """New trainings that settle the undecided comparisons of a folder, and their cost."""

    comparisons: tuple[Comparison, ...]
    left: dict[str, int]
    """Undecided comparisons that more seeds are not for, by reason."""
    decided: int
    cells: tuple[Cell, ...] = ()
    """New trainings."""
    seconds: float = 0.0
    """Seconds of the new trainings, each alone with its teacher's passes, at the earlier seeds'
    pace."""
    shared_seconds: float = 0.0
    """The same seconds with what trainings share counted once, as for the earlier seeds."""
    extra: int = 0
    """Cells that come with these, where `include` cannot name them alone."""
    metric: Metric = ACCURACY
    """Metric of the gains."""
    matrix: str = ""
    """The matrix file's text; empty where there is nothing to decide."""


def settle(matrix_file: Path, folder: Path) -> Settlement:
    """Find the cells that would settle what the results of a matrix leave undecided.

    Each undecided comparison gets the seeds that `stats.seeds_to_settle` asks for, and so does its
    baseline. Raises KtbenchError where the folder holds no result of the matrix.
    """
    matrix = load(matrix_file)
    planned = make_plan(matrix)
    analysis = Analysis(load_results(folder))
    cells = {cell.key: cell for cell in planned.cells}
    trained = analysis.cells[analysis.cells["accuracy"].notna()]
    if not trained["key"].isin(list(cells)).any():
        raise KtbenchError(
            f"{folder}: no cell of {matrix_file} is trained there: give the matrix that it was run "
            "with"
        )
    additions = _Additions(cells, analysis)
    gains = analysis.gains[~analysis.gains["is_baseline"]]
    undecided = gains[gains["sign"].isin(UNDECIDED)]
    for row in undecided.to_dict("records"):
        additions.add({str(name): value for name, value in row.items()})
    settlement = Settlement(
        tuple(additions.comparisons),
        dict(additions.left),
        len(gains) - len(undecided),
        metric=analysis.task.metric,
    )
    if not additions.cells:
        return settlement
    return _with_matrix(settlement, additions, matrix, planned)


def write(settlement: Settlement, matrix_file: Path, output: Path | None = None) -> Path:
    """Write the matrix beside the one that it came from, which relative paths start from.

    Raises KtbenchError for another place, and for a file that is there and is none of these.
    """
    path = output or matrix_file.with_name(f"{matrix_file.stem}.settle.yaml")
    base = matrix_file.absolute().parent.resolve()
    if path.absolute().parent.resolve() != base:
        raise KtbenchError(f"-o {path}: paths of the matrix start from {base}: write it there")
    if path.exists() and not path.read_text(encoding="utf-8").startswith(HEAD):
        raise KtbenchError(f"{path}: exists already: name another file with -o")
    write_atomically(path, settlement.matrix)
    return path


# ---------------------------------------------------------------- which cells


@dataclass
class _Additions:
    """Collects the cells that undecided comparisons need."""

    planned: dict[str, Cell]
    """The matrix's cells by key."""
    analysis: Analysis
    cells: dict[str, Cell] = field(default_factory=dict)
    """New cells by key."""
    costs: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Seconds of a new cell alone and shared, by key."""
    comparisons: list[Comparison] = field(default_factory=list)
    left: Counter[str] = field(default_factory=Counter)
    _seeds: dict[str, dict[int, str]] = field(default_factory=dict)
    """Keys by `place` and seed."""

    _run: set[str] = field(default_factory=set)
    """Keys of the cells that have a result."""

    def __post_init__(self) -> None:
        cells = self.analysis.cells
        self._run = set(cells.loc[cells["status"].isin(["done", "failed"]), "key"])
        for key, cell in self.planned.items():
            self._seeds.setdefault(place(cell), {})[cell.seed] = key

    def add(self, row: dict[str, Any]) -> None:
        """Add the cells that one undecided comparison needs; `row` is of `Analysis.gains`."""
        if pd.isna(row["settled_by"]):
            self.left[row["unsettled_why"] or "no pair of cells is complete"] += 1
            return
        cells = self.analysis.cells
        compared = cells[(cells[GROUP] == [row[name] for name in GROUP]).all(axis=1)]
        compared = compared[compared["key"].isin(list(self.planned))]
        pairs = compared[compared["gain"].notna() & compared["baseline"].isin(list(self.planned))]
        if pairs.empty:
            self.left["not in this matrix"] += 1
            return
        first = pairs.iloc[0]
        method, baseline = self.planned[first["key"]], self.planned[first["baseline"]]
        waiting = set(self._seeds[place(method)].values()) - self._run
        more = int(row["settled_by"]) - row["n"] - len(waiting)
        if more <= 0:
            self.left["cells of this matrix that have not run yet may settle it"] += 1
            return
        seeds = tuple(self._free(method, baseline, more))
        for cell in (method, baseline):
            self._add_seeds(cell, seeds)
        bounds = (None if pd.isna(row[name]) else row[name] for name in ("gain_low", "gain_high"))
        low, high = bounds
        names = (row["student"], row["label"], row["gain"], low, high, row["n"])
        self.comparisons.append(Comparison(*names, int(row["settled_by"]), seeds))

    def _free(self, method: Cell, baseline: Cell, number: int) -> list[int]:
        """Return seeds that a comparison has not used, those that its baseline has first."""
        used, baseline_seeds = set(self._seeds[place(method)]), set(self._seeds[place(baseline)])
        return [*sorted(baseline_seeds - used), *_fresh(used | baseline_seeds, number)][:number]

    def _add_seeds(self, cell: Cell, seeds: Iterable[int]) -> None:
        """Add more seeds of a cell, at the cost of its earlier ones."""
        keys = self._seeds[place(cell)]
        cells = self.analysis.cells
        group = cells[cells["key"].isin(list(keys.values()))]
        alone = float((group["seconds"] + group["teacher_seconds"]).mean())
        shared = float(group["shared_seconds"].mean())
        for seed in set(seeds) - set(keys):
            more = cell.model_copy(update={"seed": seed})
            keys[seed] = more.key
            self.cells[more.key] = more
            self.costs[more.key] = (alone, shared)


def _fresh(used: set[int], number: int) -> list[int]:
    """Return the lowest seeds that nothing uses."""
    free = (seed for seed in count() if seed not in used)
    return [next(free) for _ in range(number)]


# ---------------------------------------------------------------- the matrix


def _with_matrix(
    settlement: Settlement, additions: _Additions, matrix: Matrix, planned: Plan
) -> Settlement:
    values, _ = read(Path(matrix.origin.file))
    rules = _rules(additions.cells.values(), matrix, planned)
    earlier = values.get("include") or []
    earlier = earlier if isinstance(earlier, list) else [earlier]
    values = {"name": planned.name, **values, "include": [*earlier, *rules]}
    text = "\n".join(
        [
            f"{HEAD}: the cells of {Path(matrix.origin.file).name}, and",
            "# more seeds for what its results leave undecided. Run it into the same results",
            "# folder: what has been trained there is not trained again.",
            yaml.safe_dump(values, sort_keys=False, default_flow_style=None, allow_unicode=True),
        ]
    )
    written = make_plan(loads(text, file="the settling matrix", base=matrix.origin.base))
    new = {cell.key for cell in written.cells} - set(additions.planned)
    if missing := [cell for key, cell in additions.cells.items() if key not in new]:
        raise KtbenchError(
            f"{matrix.origin.file}: its rules (exclude, include) do not let {missing[0].label} in: "
            f"write a matrix with more seeds by hand"
        )
    alone, shared = (sum(cost) for cost in zip(*additions.costs.values(), strict=True))
    return Settlement(
        settlement.comparisons,
        settlement.left,
        settlement.decided,
        cells=tuple(cell for cell in written.cells if cell.key in additions.cells),
        seconds=alone,
        shared_seconds=shared,
        extra=len(new - set(additions.cells)),
        matrix=text,
    )


def _rules(cells: Iterable[Cell], matrix: Matrix, planned: Plan) -> list[dict[str, Any]]:
    """Return blocks of `include` for these cells.

    Cells of the same student, teacher, training and seeds share one.
    """
    namer = _Namer(matrix, planned)
    seeds: dict[str, list[int]] = {}
    cells_by_place: dict[str, Cell] = {}
    for cell in cells:
        cells_by_place.setdefault(place(cell), cell)
        seeds.setdefault(place(cell), []).append(cell.seed)
    blocks: dict[str, dict[str, Any]] = {}
    for name, cell in cells_by_place.items():
        block: dict[str, Any] = {"student": namer.student(cell.student)}
        block["method"] = []
        block |= {"teacher": cell.teacher.name} if cell.teacher else {}
        block["seed"] = sorted(seeds[name])
        block |= namer.members(cell)
        changes = namer.changes(cell)
        block |= {"train": changes} if changes else {}
        rule = blocks.setdefault(yaml.safe_dump(block), block)
        rule["method"].append(namer.method(cell.method))
    return list(blocks.values())


class _Namer:
    """Names items so that a rule means these and no others."""

    def __init__(self, matrix: Matrix, planned: Plan) -> None:
        axes = AxesResolver(matrix).axes()
        self._matrix, self._base = matrix, matrix.origin.base
        self._students = [item.label for item in axes.students]
        self._methods = [item.label for item in axes.methods]
        self._names = Counter(
            {(c.student.name, c.student.label): 1 for c in planned.cells}
            | {(c.method.name, c.method.label): 1 for c in planned.cells}
        )

    def student(self, item: Item) -> Any:
        """Return a student's entry in `include`."""
        return self._entry(item, self._students, catalogue.student_settings)

    def method(self, item: Item) -> Any:
        """Return a method's entry in `include`."""
        return self._entry(item, self._methods, catalogue.method_settings)

    def _entry(self, item: Item, axis: list[str], settings: Any) -> Any:
        alone = sum(name == item.name for name, _ in self._names) == 1
        if item.label in axis and (alone or item.label != item.name):
            return item.label
        given = {k: v for k, v in item.settings.items() if k not in item.implied}
        if not given and not alone:
            # A name alone would mean its variants too: a setting at its default says which.
            plain = {
                name: info.default
                for name, info in settings(item.name, self._base).items()
                if isinstance(info.default, int | float | str)
            }
            given = dict(list(plain.items())[:1])
        return {item.name: given} if given else item.name

    def members(self, cell: Cell) -> dict[str, Any]:
        """Return a cell's members on the matrix's axes beside items, teachers and seeds."""
        matrix, members = self._matrix, dict[str, Any]()
        if cell.train.epochs in matrix.budget:
            members["budget"] = cell.train.epochs
        if matrix.views:
            members["views"] = cell.train.views or "fresh"
        if matrix.distill and cell.teacher:
            members["distill"] = (cell.distill or Window()).model_dump(mode="json")
        if cell.from_file is not None:
            members["start"] = start_entry(cell.from_file)
        elif matrix.start and cell.pretrained is None:
            members["start"] = FRESH
        return members

    def changes(self, cell: Cell) -> dict[str, Any]:
        """Return the settings of its training that differ from the matrix's, axes apart."""
        matrix, usual = self._matrix, self._matrix.train.model_dump(mode="json")
        axes = {"views": matrix.views, "epochs": matrix.budget}
        return {
            name: value
            for name, value in cell.train.model_dump(mode="json").items()
            if value != usual[name] and not axes.get(name)
        }
