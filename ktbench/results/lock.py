"""The lock of a results folder: the matrix as resolved and the environment.

Cells share their parts (ten thousand cells have a few dozen students, methods and teachers), so
the file holds each part once, under a name that a reader understands, and a cell as its parts'
names: it is small, quick and plain to read.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePath
from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag

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
    Provenance,
    Record,
    Skip,
    SourceSpec,
    Start,
    Teacher,
    TrainSpec,
    Window,
)
from ktbench.results.positional_lock import PositionalPlan

LOCK_SCHEMA = 3
"""Version of `lock.json`; versions 1 and 2 were those of all records (`records.SCHEMA`)."""


class Lock(Record):
    """The matrix and environment that all results of a folder have in common."""

    plan: Plan
    provenance: Provenance
    data_digest: str | None = None


class Parts(Record):
    """The distinct parts of a plan's cells, by name."""

    data: dict[str, DataSpec]
    student: dict[str, Item]
    method: dict[str, Item]
    teacher: dict[str, Teacher | Ensemble]
    train: dict[str, TrainSpec]
    numeric: dict[str, NumericSpec]
    start: dict[str, Start]
    distill: dict[str, Window]
    warmup: dict[str, Teacher] = Field(default_factory=dict)


class NamedCell(Record):
    """A cell whose parts are named as in `Parts`."""

    student: str
    method: str
    teacher: str | None
    seed: int
    data: str
    train: str
    numeric: str
    start: str | None
    distill: str | None
    warmup: str | None = None


class NamedSkip(Record):
    """A cell that cannot exist, and why."""

    cell: NamedCell
    reason: str


class NamedPlan(Record):
    """A `Plan` whose cells name their parts."""

    name: str
    base: str
    parts: Parts
    cells: tuple[NamedCell, ...]
    skips: tuple[NamedSkip, ...]
    exports: tuple[ExportSpec, ...]
    devices: tuple[DeviceSpec, ...]
    source: SourceSpec = SourceSpec()
    blockwise: BlockRun = BlockRun()

    @classmethod
    def of(cls, plan: Plan) -> NamedPlan:
        """The plan as it is written."""
        names = _Names()
        cells = tuple(names.cell(cell) for cell in plan.cells)
        skips = tuple(NamedSkip(cell=names.cell(s.cell), reason=s.reason) for s in plan.skips)
        return cls(
            name=plan.name,
            base=plan.base,
            parts=Parts(**names.parts),
            cells=cells,
            skips=skips,
            exports=plan.exports,
            devices=plan.devices,
            source=plan.source,
            blockwise=plan.blockwise,
        )

    def plan(self) -> Plan:
        """The plan itself; raises KeyError when a cell names a part that is not there."""
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

    def _cell(self, cell: NamedCell) -> Cell:
        parts = {
            field: getattr(self.parts, field)[name]
            for field in Parts.model_fields
            if (name := getattr(cell, field)) is not None
        }
        return Cell(**parts, seed=cell.seed)


class _Names:
    """Gives each part a name of its own."""

    def __init__(self) -> None:
        self.parts: dict[str, dict[str, Any]] = {field: {} for field in Parts.model_fields}
        self._by_content: dict[tuple[str, str], str] = {}

    def cell(self, cell: Cell) -> NamedCell:
        """The cell by its parts' names, which are made where they are new."""
        names = {field: self._name(field, getattr(cell, field)) for field in self.parts}
        return NamedCell.model_validate({**names, "seed": cell.seed})

    def _name(self, field: str, part: Any) -> str | None:
        if part is None:
            return None
        content = (field, part.canonical)
        if content not in self._by_content:
            name = words = _words(part)
            number = 1
            while name in self.parts[field]:  # settings that the words leave out, or other code
                number += 1
                name = f"{words} ({number})"
            self.parts[field][name] = part
            self._by_content[content] = name
        return self._by_content[content]


def _words(part: Record) -> str:
    """A short name for a part of a cell; several parts may share it."""
    match part:
        case DataSpec():
            return PurePath(part.path or "").name or part.source
        case Item():
            return part.label
        case Teacher() | Ensemble():
            return part.name
        case TrainSpec():
            return f"{part.epochs} epochs"
        case NumericSpec():
            return f"{part.precision} on {part.device}"
        case Start():
            return f"blocks of {part.teacher.name}"
        case Window():
            return f"{part.start:g} to {part.end:g}"
    raise TypeError(type(part))


def _layout(plan: Any) -> str:
    """Tag of the layout that the plan of a `lock.json` has."""
    if isinstance(plan, dict):
        parts = plan.get("parts")
        positional = isinstance(parts, dict) and isinstance(parts.get("data"), list)
    else:
        positional = isinstance(plan, PositionalPlan)
    return "positional" if positional else "named"


class LockFile(Record):
    """`lock.json`."""

    schema_version: int
    plan: Annotated[
        Annotated[NamedPlan, Tag("named")] | Annotated[PositionalPlan, Tag("positional")],
        Discriminator(_layout),
    ]
    provenance: Provenance
    data_digest: str | None

    @classmethod
    def of(cls, lock: Lock) -> LockFile:
        """The file of a lock."""
        return cls(
            schema_version=LOCK_SCHEMA,
            plan=NamedPlan.of(lock.plan),
            provenance=lock.provenance,
            data_digest=lock.data_digest,
        )

    def lock(self) -> Lock:
        """The lock; raises LookupError when a cell names a part that is not there."""
        return Lock(plan=self.plan.plan(), provenance=self.provenance, data_digest=self.data_digest)


@contextmanager
def many_objects() -> Iterator[None]:
    """Pause garbage collection: it would walk all records again and again as they are made."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
