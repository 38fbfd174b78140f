"""Results of a search over replacements of a teacher's blocks."""

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
    """Label of the replacement."""
    entry: Json
    """Replacement as a matrix's `choice` names it."""
    cost: float
    """Cost that it adds to a network."""
    score: float
    """Score that it adds to a network; 0 for the teacher's own, mostly negative for others."""
    loss: Amount | None = None
    """Normalised loss of a replacement (see `BlockResult`), the mean over seeds."""


class SoughtBlock(Record):
    """A block with all ways to fill it, the teacher's own first."""

    block: Name
    options: tuple[BlockOption, ...]


class SoughtNetwork(Record):
    """A network assembled from trained blocks, before it is finished."""

    kind: Literal["searched", "uniform"]
    """`uniform`: one replacement for every block that it makes smaller."""
    name: Name
    """The budget of a searched network, the replacement of a uniform one, for people."""
    budget: Amount | None
    """Largest cost allowed, as a share of the teacher's; None for a uniform one."""
    choice: tuple[Name, ...]
    """Labels of the chosen replacements, block by block."""
    student: Item
    """The network as a student of a matrix."""
    cost: float
    """Sum of its options' costs and of the part that all networks of the search share."""
    parameters: Count
    validation: Share
    """Top-1 as assembled, the mean over seeds; networks are chosen by it."""
    test: Share
    """Read once, never chosen by."""
    measured_ms: Statistic | None = None
    """Median latency of the whole network on the search's device, where that was measured."""


class BlockSearch(Record):
    """One run of the search: `blocks/search-KEY.json` of a results folder."""

    schema_version: int = SCHEMA
    key: Digest
    """Digest of the question: the teacher, the blocks and the kind of cost."""
    teacher: Name
    by: Price
    device: DeviceSpec | None = None
    """Device on which latencies were measured."""
    origin: Origin | None = None
    """Origin of the latencies."""
    runtime: Words = ""
    """Runtime that measured the latencies, with its version."""
    seeds: tuple[int, ...]
    blocks: tuple[SoughtBlock, ...]
    shared: float
    """Cost of the part that no choice changes."""
    teacher_cost: Amount
    teacher_parameters: Count
    teacher_validation: Share
    teacher_test: Share
    teacher_ms: Statistic | None = None
    networks: tuple[SoughtNetwork, ...]
    notes: tuple[Words, ...] = ()
    """Remarks on the figures for the user."""
