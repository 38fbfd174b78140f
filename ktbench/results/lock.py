"""The lock of a results folder: the matrix as resolved and the environment.

Cells share their parts (ten thousand cells have a few dozen students, methods and teachers), so
the file holds each part once and a cell as seven numbers: it is small, quick and can be read.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

from pydantic import Field

from ktbench.records import (
    SCHEMA,
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


class Lock(Record):
    """What every result of a folder has in common."""

    schema_version: int = SCHEMA
    plan: Plan
    provenance: Provenance
    data_digest: str | None = None


class Parts(Record):
    """The distinct parts of a plan's cells."""

    data: tuple[DataSpec, ...]
    student: tuple[Item, ...]
    method: tuple[Item, ...]
    teacher: tuple[Teacher | Ensemble | None, ...]
    train: tuple[TrainSpec, ...]
    numeric: tuple[NumericSpec, ...]
    start: tuple[Start, ...] = ()
    """Not in the locks of the first version."""
    distill: tuple[Window, ...] = ()
    """Nor is this."""


PackedCell = Annotated[tuple[int, ...], Field(min_length=7, max_length=9)]
"""Positions in `Parts`, in the order of its fields, the seed, and the positions of its `start` and
its `distill`: -1 where it has none, left out at the end."""


class PackedSkip(Record):
    """A cell that cannot exist, and why."""

    cell: PackedCell
    reason: str


class PackedPlan(Record):
    """A `Plan` whose cells name their parts."""

    name: str
    base: str
    parts: Parts
    cells: tuple[PackedCell, ...]
    skips: tuple[PackedSkip, ...]
    exports: tuple[ExportSpec, ...]
    devices: tuple[DeviceSpec, ...]
    source: SourceSpec = SourceSpec()
    """Not in the locks of the first version."""
    blockwise: BlockRun = BlockRun()
    """Nor is this."""


class LockFile(Record):
    """`lock.json`."""

    schema_version: int
    plan: PackedPlan
    provenance: Provenance
    data_digest: str | None

    @classmethod
    def of(cls, lock: Lock) -> LockFile:
        """The file of a lock."""
        return cls(
            schema_version=lock.schema_version,
            plan=_pack(lock.plan),
            provenance=lock.provenance,
            data_digest=lock.data_digest,
        )

    def lock(self) -> Lock:
        """The lock; raises IndexError when a cell names a part that is not there."""
        return Lock(
            schema_version=self.schema_version,
            plan=_unpack(self.plan),
            provenance=self.provenance,
            data_digest=self.data_digest,
        )


_FIELDS = ("data", "student", "method", "teacher", "train", "numeric")


def _pack(plan: Plan) -> PackedPlan:
    parts: dict[str, dict[str, Any]] = {name: {} for name in _FIELDS}
    positions: dict[str, dict[str, int]] = {name: {} for name in _FIELDS}
    starts: dict[str, tuple[int, Start]] = {}
    windows: dict[str, tuple[int, Window]] = {}

    def pack(cell: Cell) -> PackedCell:
        numbers = []
        for name in _FIELDS:
            part = getattr(cell, name)
            text = part.canonical if part is not None else ""
            numbers.append(positions[name].setdefault(text, len(positions[name])))
            parts[name].setdefault(text, part)
        start = window = -1
        if cell.start is not None:
            start, _ = starts.setdefault(cell.start.canonical, (len(starts), cell.start))
        if cell.distill is not None:
            window, _ = windows.setdefault(cell.distill.canonical, (len(windows), cell.distill))
        rest = (start, window) if window >= 0 else (start,) if start >= 0 else ()
        return (*numbers, cell.seed, *rest)

    cells = tuple(pack(cell) for cell in plan.cells)
    skips = tuple(PackedSkip(cell=pack(s.cell), reason=s.reason) for s in plan.skips)
    return PackedPlan(
        name=plan.name,
        base=plan.base,
        parts=Parts(
            **{name: tuple(found.values()) for name, found in parts.items()},
            start=tuple(start for _, start in starts.values()),
            distill=tuple(window for _, window in windows.values()),
        ),
        cells=cells,
        skips=skips,
        exports=plan.exports,
        devices=plan.devices,
        source=plan.source,
        blockwise=plan.blockwise,
    )


def _unpack(packed: PackedPlan) -> Plan:
    parts = packed.parts

    def unpack(numbers: PackedCell) -> Cell:
        found = {name: getattr(parts, name)[i] for name, i in zip(_FIELDS, numbers, strict=False)}
        at = dict(zip(("start", "distill"), numbers[7:], strict=False))
        rest = {name: getattr(parts, name)[i] for name, i in at.items() if i >= 0}
        return Cell(**found, seed=numbers[6], **rest)

    return Plan(
        name=packed.name,
        base=packed.base,
        cells=tuple(unpack(cell) for cell in packed.cells),
        skips=tuple(Skip(cell=unpack(s.cell), reason=s.reason) for s in packed.skips),
        exports=packed.exports,
        devices=packed.devices,
        source=packed.source,
        blockwise=packed.blockwise,
    )


@contextmanager
def many_objects() -> Iterator[None]:
    """No garbage collection inside: it would walk all records again and again as they are made."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
