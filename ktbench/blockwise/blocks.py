"""A student's blocks: the tasks of training them, their keys, and their files.

blocks/KEY.json, KEY.pt             a `BlockResult` and the kept weights
blocks/assembled-KEY.json, .pt      an `Assembly` and a student's first weights
work/block-KEY/training.pt          the checkpoint of an unfinished training
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from pydantic import ValidationError
from torch import Tensor

from ktbench import catalogue
from ktbench.networks.weights import read_torch, weights_digest
from ktbench.records import (
    Assembly,
    BlockResult,
    Cell,
    Item,
    KtbenchError,
    Record,
    Start,
    digest_of,
)
from ktbench.students._blocks import Block, Replacement, Replacing
from ktbench.system.files import write_atomically

State = Mapping[str, Tensor]
_Kind = TypeVar("_Kind", bound=Record)


@dataclass(frozen=True)
class BlockTask:
    """One block to train a replacement for."""

    block: Block
    entry: Replacement
    key: str

    @property
    def name(self) -> str:
        """Name of the block, unique within the teacher."""
        return self.block.name

    @property
    def replacement(self) -> str:
        """Name and settings of the replacement."""
        name, settings = catalogue.named(self.entry)
        return Item(name=name, settings=settings).label


def tasks_of(cell: Cell, *, base: str | Path = ".", **sizes: int) -> tuple[BlockTask, ...]:
    """Return the blocks that a cell's student may replace, in the network's order.

    Raises KtbenchError where the cell does not start from a teacher's blocks.
    """
    start = start_of(cell)
    student = build_blockwise(cell, base=base, **sizes)
    tasks = []
    for block in student.blocks:
        if block.name in student.entries:
            entry = student.entries[block.name]
            tasks.append(BlockTask(block, entry, _block_key(cell, start, block, entry)))
    return tuple(tasks)


def assembly_key(cell: Cell) -> str:
    """Return the key of a student's first weights, equal for the cells that start from them."""
    start = start_of(cell)
    parts = [cell.student.canonical, start.train.canonical]
    return digest_of([*_common(cell, start), *parts])


def build_blockwise(cell: Cell, *, base: str | Path = ".", **sizes: int) -> Replacing:
    """Build the cell's student without moving the global generator."""
    item = cell.student
    with torch.random.fork_rng(devices=[]):
        student = catalogue.build_student(item.name, item.settings, base=str(base), **sizes)
    if not isinstance(student, Replacing):
        raise KtbenchError(f"{cell.student.label} has no blocks of a teacher's to train")
    return student


def start_of(cell: Cell) -> Start:
    """Return the start of a cell's student; KtbenchError where it is not a teacher's blocks."""
    if cell.start is None:
        raise KtbenchError(f"{cell.label} does not start from a teacher's blocks")
    return cell.start


def _block_key(cell: Cell, start: Start, block: Block, entry: Replacement) -> str:
    """Digest all that the stored weights depend on; what is done with them later is left out."""
    train = start.train.model_dump(mode="json", exclude={"keep_within"})
    return digest_of(
        [*_common(cell, start), train, list(block.paths), list(catalogue.named(entry))]
    )


def _common(cell: Cell, start: Start) -> list[str | int]:
    # Blocks are trained under these numeric settings alone: never bf16, never compiled.
    numeric = cell.numeric
    return [
        start.teacher.canonical,
        cell.data.canonical,
        cell.seed,
        numeric.threads,
        numeric.device,
    ]


@dataclass(frozen=True)
class BlockStore:
    """Files of block trainings in a results folder, which are complete or absent."""

    root: Path

    @property
    def folder(self) -> Path:
        """Folder of everything that is done."""
        return self.root / "blocks"

    def work(self, key: str) -> Path:
        """Return the path of an unfinished training's checkpoint."""
        return self.root / "work" / f"block-{key}" / "training.pt"

    def drop_work(self, key: str) -> None:
        """Remove the checkpoint of a training that has ended."""
        shutil.rmtree(self.work(key).parent, ignore_errors=True)

    def find(self, key: str) -> BlockResult | None:
        """Return the result of a block whose weights are whole, else None."""
        result = self._record(BlockResult, key)
        return result if result is not None and self._whole(result) else None

    def find_assembly(self, key: str) -> Assembly | None:
        """Return the record of an assembled network whose weights are whole, else None."""
        assembly = self._record(Assembly, f"assembled-{key}")
        return assembly if assembly is not None and self._whole(assembly) else None

    def load(self, result: BlockResult) -> dict[str, Tensor]:
        """Load the stored weights; KtbenchError where they are not those of the record."""
        state: dict[str, Tensor] = read_torch(self.root / result.path)
        if weights_digest(state) != result.digest:
            raise KtbenchError(f"{self.root / result.path}: damaged: delete it and run again")
        return state

    def write_weights(self, name: str, state: State) -> str:
        """Write weights below `blocks/`; return their path relative to the results folder."""
        path = self.folder / f"{name}.pt"
        plain = {key: value.detach().cpu().contiguous() for key, value in state.items()}
        write_atomically(path, to_bytes(plain))
        return str(path.relative_to(self.root))

    def write(self, record: BlockResult | Assembly) -> None:
        """Write a record, once its weights are there."""
        name = record.key if isinstance(record, BlockResult) else f"assembled-{record.key}"
        write_atomically(self.folder / f"{name}.json", record.model_dump_json(indent=1))

    def _record(self, kind: type[_Kind], name: str) -> _Kind | None:
        path = self.folder / f"{name}.json"
        try:
            return kind.model_validate_json(path.read_bytes())
        except (FileNotFoundError, ValidationError):  # a damaged one is made again
            return None

    def _whole(self, record: BlockResult | Assembly) -> bool:
        try:
            return weights_digest(read_torch(self.root / record.path)) == record.digest
        except (KtbenchError, AttributeError):
            return False


def to_bytes(value: object) -> bytes:
    """Serialise a value with `torch.save`."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()
