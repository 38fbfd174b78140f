"""The lock of a results folder: the matrix as resolved and the environment.

Cells share their parts (ten thousand cells have a few dozen students, methods and teachers), so
the file holds each part once, under a name that a reader understands, and a cell as its parts'
names: it is small, quick and plain to read.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import PurePath
from typing import Annotated, Any

from pydantic import Discriminator, Field, SerializerFunctionWrapHandler, Tag, model_serializer

from ktbench.records import (
    ACCURACY,
    BlockRun,
    Cell,
    DataSpec,
    DeviceSpec,
    Ensemble,
    ExportSpec,
    Item,
    Metric,
    NumericSpec,
    Plan,
    Provenance,
    Record,
    SeedRace,
    Skip,
    SourceSpec,
    Start,
    Teacher,
    TrainSpec,
    WeightsFile,
    Window,
)
from ktbench.records.base import without_unset

LOCK_SCHEMA = 4
"""Version of `lock.json`; versions 1 and 2 were those of all records (`records.SCHEMA`), version 3
has no `classes`."""


class TaskWords(Record):
    """Words of a report on a task, so that it needs none of the task's code.

    The defaults are those of images: folders that tell no task hold no others.
    """

    noun: str = "image"
    """Word for one sample."""
    metric: Metric = ACCURACY
    """Metric that networks are judged by."""
    augmentation: str = ""
    """Augmentation that the task's own settings ask for; that of images stands in their data."""


class Lock(Record):
    """The matrix and environment that all results of a folder have in common."""

    plan: Plan
    provenance: Provenance
    data_digest: str | None = None
    classes: int | None = None
    """Classes of the data, which all cells share; None in folders of older versions."""
    task: TaskWords = TaskWords()
    remarks: tuple[str, ...] = ()
    """Remarks of planning on the data: the columns chosen, what is left out, what is cut."""

    def metric_of(self, cell: Cell) -> Metric | None:
        """Metric of a cell's figures; None for a cell of an earlier matrix with another task."""
        same = self.plan.cells and cell.data.task == self.plan.cells[0].data.task
        return self.task.metric if same else None


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
    pretrained: dict[str, Teacher] = Field(default_factory=dict)
    from_file: dict[str, WeightsFile] = Field(default_factory=dict)

    @model_serializer(mode="wrap")
    def _as_before(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what a training that begins from none has not."""
        return without_unset(plain(self), "pretrained", "from_file")


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
    pretrained: str | None = None
    from_file: str | None = None

    @model_serializer(mode="wrap")
    def _as_before(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what a training that begins from none has not."""
        return without_unset(plain(self), "pretrained", "from_file")


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
    race: SeedRace | None = None

    @model_serializer(mode="wrap")
    def _as_before(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what a plan with the same seeds for all has not."""
        return without_unset(plain(self), "race")

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
            race=plan.race,
        )

    def plan(self) -> Plan:
        """The plan itself; raises KeyError when a cell names a part that is not there."""
        return _read(self, self._cell)

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
        case WeightsFile():
            return part.label
        case Window():
            return f"{part.start:g} to {part.end:g}"
    raise TypeError(type(part))


# ---------------------------------------------------------------- schemas 1 and 2

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
        return _read(self, self._cell)

    def _cell(self, numbers: PositionalCell) -> Cell:
        positions = dict(zip(_FIELDS, numbers, strict=False))
        optional = zip(("start", "distill"), numbers[7:], strict=False)
        positions |= {name: number for name, number in optional if number >= 0}
        parts = {name: getattr(self.parts, name)[number] for name, number in positions.items()}
        return Cell(**parts, seed=numbers[6])


# ---------------------------------------------------------------- the file


def _read(written: NamedPlan | PositionalPlan, cell: Callable[[Any], Cell]) -> Plan:
    """The plan of a lock, of which `cell` reads the cells."""
    return Plan(
        name=written.name,
        base=written.base,
        cells=tuple(map(cell, written.cells)),
        skips=tuple(Skip(cell=cell(skip.cell), reason=skip.reason) for skip in written.skips),
        exports=written.exports,
        devices=written.devices,
        source=written.source,
        blockwise=written.blockwise,
        race=written.race if isinstance(written, NamedPlan) else None,
    )


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
    classes: Annotated[int, Field(ge=1)] | None = None
    task: TaskWords = TaskWords()
    remarks: tuple[str, ...] = ()

    @model_serializer(mode="wrap")
    def _as_before(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave unsaid the task of images, as files did when there was no other, and no remarks."""
        fields: dict[str, Any] = plain(self)
        if self.task == TaskWords():
            fields.pop("task", None)
        if not self.remarks:
            fields.pop("remarks", None)
        return fields

    @classmethod
    def of(cls, lock: Lock) -> LockFile:
        """The file of a lock."""
        return cls(
            schema_version=LOCK_SCHEMA,
            plan=NamedPlan.of(lock.plan),
            provenance=lock.provenance,
            data_digest=lock.data_digest,
            classes=lock.classes,
            task=lock.task,
            remarks=lock.remarks,
        )

    def lock(self) -> Lock:
        """The lock; raises LookupError when a cell names a part that is not there."""
        return Lock(
            plan=self.plan.plan(),
            provenance=self.provenance,
            data_digest=self.data_digest,
            classes=self.classes,
            task=self.task,
            remarks=self.remarks,
        )


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
