"""A synthetic study of training efficiency: budgets, windows and a pool, with known curves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks._synthetic import DATA, PROVENANCE, Shape, result_of
from ktbench.records import (
    BASELINE,
    Accuracies,
    Cell,
    Checkpoint,
    Cost,
    Ensemble,
    Item,
    Plan,
    Result,
    Teacher,
    TrainSpec,
    Window,
)
from ktbench.results import ResultsFolder

EPOCHS = (4, 8, 16, 32, 64)
STEP_FLOPS, TEACHER_STEP_FLOPS = 10**9, 3 * 10**8
TEACHER_FLOPS = 50 * 10**9
NETWORK = Item(name="resnet8")
SHAPE = Shape(students=("resnet8",), gains={}, exports=(), devices=(), epochs=4)

Use = tuple[Teacher | Ensemble, Window | None]


def teacher(number: int) -> Teacher:
    cell = Cell(
        data=DATA.model_copy(update={"train_size": None}),
        student=Item(name="resnet20"),
        method=BASELINE,
        seed=number,
        train=TrainSpec(epochs=30),
    )
    return Teacher(name=f"T{number}", cell=cell)


POOL = tuple(teacher(number) for number in range(4))
ONE = Ensemble(name="one of four", sample=1, of=POOL)
ALL = Ensemble(name="all four", sample=4, of=POOL)
USES: tuple[Use, ...] = (
    (POOL[0], None),
    (POOL[0], Window(end=0.3)),
    (ONE, None),
    (ALL, None),
)


def plan_of(uses: Sequence[Use] = USES, seeds: int = 5, epochs: Sequence[int] = EPOCHS) -> Plan:
    """Return the plan: no transfer, and `kd` with every use of teachers, in every budget."""
    cells = []
    for seed, budget in product(range(seeds), epochs):
        rest = {"data": DATA, "student": NETWORK, "seed": seed, "train": TrainSpec(epochs=budget)}
        cells.append(Cell.model_validate({**rest, "method": BASELINE}))
        for use, window in uses:
            asked = {**rest, "method": Item(name="kd"), "teacher": use, "distill": window}
            cells.append(Cell.model_validate(asked))
    return Plan(name="efficiency", base="/", cells=tuple(cells))


def quality(cell: Cell, gain: float) -> float:
    """Return an accuracy linear in log(epochs), with noise per seed and a little per cell."""
    luck = 0.01 * np.random.default_rng(cell.seed).normal()
    own = 0.003 * np.random.default_rng([int(cell.key, 16) % 2**32]).normal()
    return float(
        0.3 + 0.1 * np.log2(cell.train.epochs) / 2 + luck + own + gain * bool(cell.teacher)
    )


def passes(cell: Cell) -> float:
    """Return the number of teachers asked per step, on average over the training."""
    window = cell.distill or Window()
    each = cell.teacher.sample if isinstance(cell.teacher, Ensemble) else 1
    return each * (window.end - window.start) if cell.teacher else 0.0


def write_efficiency(
    path: Path,
    plan: Plan | None = None,
    *,
    gain: float = 0.05,
    missing: Callable[[Cell], bool] = lambda cell: False,
) -> Path:
    """Write the results folder of such a study; distillation adds `gain` to the accuracy."""
    plan = plan or plan_of()
    folder = ResultsFolder(path)
    with folder.open(plan, "name: efficiency\n", PROVENANCE, data_digest="d" * 16):
        for cell in plan.cells:
            if not missing(cell):
                folder.write_result(_result(folder, cell, gain))
    return folder.path


def _result(folder: ResultsFolder, cell: Cell, gain: float) -> Result:
    plain = cell.model_copy(update={"teacher": cell.teachers[0] if cell.teacher else None})
    theirs = folder.curves(plain.key)  # an ensemble's cell is written as its first member's
    before = theirs.read_bytes() if theirs.exists() else None
    found = result_of(folder, plain, replace(SHAPE, epochs=cell.train.epochs))
    assert found.checkpoint is not None
    level, epochs = quality(cell, gain), cell.train.epochs
    _write_curve(folder, cell, plain.key, level)
    if before is not None and plain.key != cell.key:
        theirs.write_bytes(before)
    checkpoint = found.checkpoint.model_copy(
        update={
            "cell_key": cell.key,
            "path": f"weights/{cell.key}.pt",
            "curves": f"cells/{cell.key}.curves.parquet",
            "epochs": epochs,
            "accuracy": Accuracies(
                validation_last=level,
                validation_best=level,
                best_epoch=epochs,
                test_last=level,
                test_best=level,
            ),
            "cost": _cost(STEP_FLOPS * epochs, int(TEACHER_STEP_FLOPS * epochs * passes(cell))),
        }
    )
    members = tuple(_trained(found.teacher, t) for t in cell.teachers if found.teacher)
    several = isinstance(cell.teacher, Ensemble)
    return found.model_copy(
        update={
            "cell": cell,
            "checkpoint": checkpoint,
            "teacher": None if several or not members else members[0],
            "ensemble": members if several else (),
        }
    )


def _write_curve(folder: ResultsFolder, cell: Cell, written_as: str, level: float) -> None:
    """Write a cell's curve, shaped like another's: it rises to `level` at the cell's own cost."""
    table = pq.read_table(folder.curves(written_as))
    epochs = np.arange(1, len(table) + 1)
    taught = TEACHER_STEP_FLOPS * passes(cell)
    columns = {
        "validation_accuracy": np.append(np.linspace(level / 2, level, len(epochs))[:-1], level),
        "flops": STEP_FLOPS * epochs,
        "teacher_flops": (taught * epochs).astype(np.int64),
        "seconds": STEP_FLOPS * epochs / 1e9,
        "teacher_seconds": taught * epochs / 1e9,
    }
    for name, values in columns.items():
        place = table.schema.get_field_index(name)
        column = pa.array(values, type=table.schema.field(name).type)
        table = table.set_column(place, table.schema.field(name), column)
    pq.write_table(table, folder.curves(cell.key))


def _trained(like: Checkpoint, teacher: Teacher) -> Checkpoint:
    return like.model_copy(update={"cell_key": teacher.cell.key, "cost": _cost(TEACHER_FLOPS, 0)})


def _cost(flops: int, teacher_flops: int) -> Cost:
    """Return the cost of a training at one second per 10⁹ FLOPs."""
    return Cost(
        seconds=flops / 1e9,
        teacher_seconds=teacher_flops / 1e9,
        shared_seconds=flops / 1e9,
        flops=flops,
        teacher_flops=teacher_flops,
    )
