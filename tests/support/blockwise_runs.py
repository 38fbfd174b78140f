"""Whole runs with blockwise students: their cells, and what came of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import JsonValue

from ktbench.engine.contract import Engine
from ktbench.engine.inline import Inline
from ktbench.records import (
    Assembly,
    BlockResult,
    BlockRun,
    BlockTrain,
    Cell,
    DataSpec,
    Item,
    NumericSpec,
    Plan,
    Result,
    Start,
    Teacher,
    TrainSpec,
)
from ktbench.results import ResultsFolder
from ktbench.runner import Silent, Summary, run

DATA = DataSpec(source="digits", train_size=96, validation_size=60, test_size=60)
TRAIN = TrainSpec(epochs=2, batch_size=32)
BLOCKS = BlockTrain(epochs=2, batch_size=32, splice_every=1, keep_within=0.9)
NETWORK: JsonValue = {"resnet8": {"width": 0.5}}


def teacher() -> Teacher:
    item = Item(name="resnet8", settings={"width": 0.5})
    none = Item(name="none")
    cell = Cell(data=DATA, student=item, method=none, seed=0, train=TRAIN, numeric=NumericSpec())
    return Teacher(name="T", cell=cell)


def cell(method: str = "none", seed: int = 0, train: BlockTrain = BLOCKS, **settings: Any) -> Cell:
    student = Item(name="blockwise", settings={"of": "T", "network": NETWORK, **settings})
    return Cell(
        data=DATA,
        student=student,
        method=Item(name=method),
        teacher=None if method == "none" else teacher(),
        seed=seed,
        train=TRAIN,
        numeric=NumericSpec(),
        start=Start(teacher=teacher(), train=train),
    )


CELLS = (cell(), cell("kd"), cell(seed=1))


class Lines(Silent):
    """A watcher that keeps the lines it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


def go(
    folder: Path,
    cells: tuple[Cell, ...] = CELLS,
    engine: Engine | None = None,
    watcher: Lines | None = None,
    **how: Any,
) -> Summary:
    plan = Plan(name="blocks", base=str(folder.parent), cells=cells, blockwise=BlockRun(**how))
    return run(
        plan,
        matrix_text="",
        folder=folder,
        engine=engine or Inline(),
        watcher=watcher or Lines(),
        write_report=None,
    )


def weights(folder: Path) -> dict[str, str]:
    """Return the digests of all weights by key: of cells, first weights and blocks."""
    found: dict[str, str] = {}
    for result in results(folder):
        assert result.checkpoint is not None and result.start is not None, result.failures
        found[result.cell.key] = result.checkpoint.digest
        found[result.start.key] = result.start.digest
        found |= {block.key: block.digest for block in result.start.blocks}
    return found


def start_of(result: Result) -> Assembly:
    assert result.start is not None
    return result.start


def made_of(result: Result) -> tuple[BlockResult, ...]:
    return start_of(result).blocks


def results(folder: Path) -> list[Result]:
    return list(ResultsFolder(folder).results())
