"""What a search over replacements of a teacher's blocks found."""

from __future__ import annotations

from typing import Literal

from ktbench.records.base import SCHEMA, Record
from ktbench.records.bounds import Amount, Count, Digest, Json, Name, Share, Words
from ktbench.records.cell import Item
from ktbench.records.measurement import Origin, Statistic
from ktbench.records.run_options import DeviceSpec

Price = Literal["parameters", "bytes", "latency"]


class BlockOption(Record):
    """One way to fill a block: the teacher's own (`keep`), or a trained replacement."""

    replacement: Name
    """Its label."""
    entry: Json
    """As a matrix's `choice` names it."""
    cost: float
    """What it adds to a network's cost."""
    score: float
    """What it adds to a network's score; 0 for the teacher's own, mostly negative for others."""
    loss: Amount | None = None
    """Normalised loss of a replacement (see `BlockResult`), the mean over seeds."""


class SoughtBlock(Record):
    """A block with all ways to fill it, the teacher's own first."""

    block: Name
    options: tuple[BlockOption, ...]


class SoughtNetwork(Record):
    """A network put together of trained blocks, before any finish."""

    kind: Literal["searched", "uniform"]
    """`uniform`: one replacement for every block that it makes smaller."""
    name: Name
    """For people: the budget of a searched one, the replacement of a uniform one."""
    budget: Amount | None
    """Most that it might cost, as a share of the teacher; None for a uniform one."""
    choice: tuple[Name, ...]
    """Labels, block by block."""
    student: Item
    """As the matrix of the search has it."""
    cost: float
    """Sum of its options' costs and of what all networks of the search share."""
    parameters: Count
    validation: Share
    """Top-1 as assembled, the mean over seeds; what is chosen among networks is chosen by it."""
    test: Share
    """Read once, never chosen by."""
    measured_ms: Statistic | None = None
    """Median latency of the whole network on the search's device, where that was measured."""


class BlockSearch(Record):
    """One run of the search: `blocks/search-KEY.json` of a results folder."""

    schema_version: int = SCHEMA
    key: Digest
    """Names what was asked: the teacher, the blocks and what their cost is."""
    teacher: Name
    by: Price
    device: DeviceSpec | None = None
    """Of latencies."""
    origin: Origin | None = None
    """Of latencies."""
    runtime: Words = ""
    """Of latencies: the runtime and its version."""
    seeds: tuple[int, ...]
    blocks: tuple[SoughtBlock, ...]
    shared: float
    """Cost of what no choice changes."""
    teacher_cost: Amount
    teacher_parameters: Count
    teacher_validation: Share
    teacher_test: Share
    teacher_ms: Statistic | None = None
    networks: tuple[SoughtNetwork, ...]
    notes: tuple[Words, ...] = ()
    """What the user should know of the figures."""
