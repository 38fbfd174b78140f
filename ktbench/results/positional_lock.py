"""Reads the plan of a `lock.json` of schema 1 or 2, whose cells are positions in lists of parts."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from ktbench.records import (
    BlockRun,
    Cell,
    DataSpec,
    DeviceSpec,
    Ensemble,
    ExportSpec,
    Item,
    NumericSpec,
    Plan,
    Record,
    Skip,
    SourceSpec,
    Start,
    Teacher,
    TrainSpec,
    Window,
)

_FIELDS = ("data", "student", "method", "teacher", "train", "numeric")


class PositionalParts(Record):
    """The distinct parts of a plan's cells."""

    data: tuple[DataSpec, ...]
    student: tuple[Item, ...]
    method: tuple[Item, ...]
    teacher: tuple[Teacher | Ensemble | None, ...]
    train: tuple[TrainSpec, ...]
    numeric: tuple[NumericSpec, ...]
    start: tuple[Start, ...] = ()
    distill: tuple[Window, ...] = ()


PositionalCell = Annotated[tuple[int, ...], Field(min_length=7, max_length=9)]
"""Positions in the first six lists of `PositionalParts`, the seed, and the positions of its `start`
and its `distill`: -1 where it has none, left out at the end."""


class PositionalSkip(Record):
    """A cell that cannot exist, and why."""

    cell: PositionalCell
    reason: str


class PositionalPlan(Record):
    """A `Plan` whose cells are lists of positions."""

    name: str
    base: str
    parts: PositionalParts
    cells: tuple[PositionalCell, ...]
    skips: tuple[PositionalSkip, ...]
    exports: tuple[ExportSpec, ...]
    devices: tuple[DeviceSpec, ...]
    source: SourceSpec = SourceSpec()
    blockwise: BlockRun = BlockRun()

    def plan(self) -> Plan:
        """The plan itself; raises IndexError when a cell names a part that is not there."""
        return Plan(
            name=self.name,
            base=self.base,
            cells=tuple(self._cell(cell) for cell in self.cells),
            skips=tuple(Skip(cell=self._cell(s.cell), reason=s.reason) for s in self.skips),
            exports=self.exports,
            devices=self.devices,
            source=self.source,
            blockwise=self.blockwise,
        )

    def _cell(self, numbers: PositionalCell) -> Cell:
        positions = dict(zip(_FIELDS, numbers, strict=False))
        optional = zip(("start", "distill"), numbers[7:], strict=False)
        positions |= {name: number for name, number in optional if number >= 0}
        parts = {name: getattr(self.parts, name)[number] for name, number in positions.items()}
        return Cell(**parts, seed=numbers[6])
