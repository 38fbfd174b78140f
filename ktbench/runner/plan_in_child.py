"""Plans a matrix in a child process, as planning runs code that the matrix names."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from ktbench import catalogue
from ktbench.data import DataInfo, describe
from ktbench.matrix import MatrixText, load, plan
from ktbench.matrix.estimate import Estimate, estimate
from ktbench.records import DataSpec, KtbenchError, Plan
from ktbench.supervision import Child, Died, allow

STEP_S = 120.0
"""Longest look at one network or method while a matrix is planned."""
_MOST_DEATHS = 20


@dataclass(frozen=True, repr=False)
class Planned:
    """A plan with its matrix and data, and its estimated cost where that was requested."""

    plan: Plan
    text: str
    """The matrix file's text."""
    data: tuple[DataInfo, ...]
    """The students' data sets: one, unless the matrix says otherwise."""
    estimate: Estimate | None = None

    @property
    def remarks(self) -> tuple[str, ...]:
        """The columns chosen and the notes on the data, for the report."""
        read = [info.contents for info in self.data if info.contents]
        about = [contents.about for contents in read if contents.about]
        notes = [note for contents in read for note in contents.notes]
        return tuple(dict.fromkeys([*about, *notes]))

    def __repr__(self) -> str:
        """Return a line with the name, the counts, and the cost where it was estimated."""
        plan = self.plan
        counts = (
            f"{len(plan.cells)} cells, {len(plan.skips)} skipped, {len(plan.teachers)} teachers"
        )
        cost = f"; {self.estimate.text}" if self.estimate else ""
        return f"<matrix {plan.name}: {counts}{cost}>"


def plan_matrix(
    matrix: Path | MatrixText, *, child: Child, estimated: bool = False, no_code: bool = False
) -> Planned:
    """Plan a matrix file; an item whose code ends the process is left out with its reason.

    With `no_code` nothing is imported or run that the matrix names.

    Raises MatrixError, and Died where no item is to blame.
    """
    refused: dict[str, str] = {}
    child.logs = None  # there may be no results folder yet
    while True:
        try:
            planned: Planned = child.run(
                _planned, matrix, refused, estimated, no_code, step_s=STEP_S
            )
        except Died as died:
            name = died.mark.subject
            if not name or name in refused or len(refused) >= _MOST_DEATHS:
                raise KtbenchError(f"{matrix}: cannot be planned: {died.reason}") from None
            refused[name] = died.reason
        else:
            return planned


def _planned(
    matrix: Path | MatrixText, refused: dict[str, str], estimated: bool, no_code: bool
) -> Planned:
    """Plan a matrix in the child process, without the items that ended an earlier one."""
    for name, reason in refused.items():
        catalogue.refuse(name, reason)
    return plan_here(matrix, estimated=estimated, no_code=no_code)


def plan_here(
    matrix: Path | MatrixText, *, estimated: bool = False, no_code: bool = False
) -> Planned:
    """Plan a matrix in this process: whatever ends it ends the caller too."""
    with catalogue.no_code() if no_code else nullcontext():
        loaded = load(matrix)
        allow(min(STEP_S, loaded.limits.step_seconds))
        planned = plan(loaded)
        return Planned(
            planned, loaded.origin.text, _data(planned), estimate(planned) if estimated else None
        )


def _data(plan: Plan) -> tuple[DataInfo, ...]:
    cells = [*plan.cells, *(skip.cell for skip in plan.skips)]
    specs: dict[str, DataSpec] = {cell.data.canonical: cell.data for cell in cells}
    return tuple(describe(spec, Path(plan.base)) for spec in specs.values())
