"""Race of seeds: every comparison gets seeds one by one, as long as they may decide it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ktbench.records import Cell, Plan, Skip

if TYPE_CHECKING:
    from ktbench.report.analysis import Analysis


def place(cell: Cell) -> str:
    """Return a key that a cell shares with those that differ from it in their seed alone."""
    return cell.model_copy(update={"seed": 0}).key


def first_seeds(plan: Plan) -> Plan:
    """Return the plan with the seeds that every comparison begins with; the plan without a race."""
    if plan.race is None:
        return plan
    first = {
        cell.key for group in _by_place(plan.cells).values() for cell in group[: plan.race.start]
    }
    skips: dict[str, list[Skip]] = {}
    for skip in plan.skips:
        skips.setdefault(place(skip.cell), []).append(skip)
    told = tuple(skip for group in skips.values() for skip in group[: plan.race.start])
    return _of(plan, first).model_copy(update={"skips": told})


def with_next_seeds(asked: Plan, whole: Plan, folder: Path) -> Plan:
    """Return the plan with one more seed for each comparison that is open; the same if none is.

    `asked` has run into the folder; `whole` has all seeds that may be needed. A comparison's
    baseline gets the seed too.
    """
    if whole.race is None or not whole.race.decide:
        return asked
    from ktbench.report.analysis import Analysis  # pandas, which only a race needs here
    from ktbench.results import load_results

    groups = _by_place(whole.cells)
    place_of = {cell.key: name for name, group in groups.items() for cell in group}
    there = {cell.key for cell in asked.cells}
    added: set[str] = set()
    for key, baseline in _open_pairs(Analysis(load_results(folder))):
        waiting = (cell for cell in groups[place_of[key]] if cell.key not in there)
        if (cell := next(waiting, None)) is not None:
            beside = groups.get(place_of.get(baseline, ""), ())
            added |= {cell.key, *(other.key for other in beside if other.seed == cell.seed)}
    return _of(whole, there | added).model_copy(update={"skips": asked.skips})


def _open_pairs(analysis: Analysis) -> Iterator[tuple[str, str]]:
    """Yield the key of a cell of each open comparison, and its baseline's (or no key)."""
    from ktbench.report.analysis import GROUP

    gains = analysis.gains
    by_name = analysis.cells.groupby(GROUP, sort=False)
    for name in gains.loc[gains["race"] == "open", GROUP].itertuples(index=False, name=None):
        rows = by_name.get_group(name).sort_values("baseline", na_position="last")
        baseline = rows["baseline"].iloc[0]
        yield str(rows["key"].iloc[0]), baseline if isinstance(baseline, str) else ""


def _by_place(cells: Iterable[Cell]) -> dict[str, list[Cell]]:
    """Group cells that differ in their seed alone."""
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(place(cell), []).append(cell)
    return groups


def _of(whole: Plan, keys: set[str]) -> Plan:
    """Return the plan with those of its cells alone."""
    cells = tuple(cell for cell in whole.cells if cell.key in keys)
    return whole.model_copy(update={"cells": cells})
