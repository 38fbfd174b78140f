"""Eight students of one teacher on small colour images, for the claims about cohorts."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from ktbench import catalogue
from ktbench.data import Dataset, load
from ktbench.networks.layout import FIRST
from ktbench.records import Cell, DataSpec, Item, NumericSpec, Teacher, TrainSpec
from ktbench.teacher.live import Live
from ktbench.train import Places

TEACHER, STUDENT = "wrn_40_2", "wrn_16_2"
BATCH = 64
HELD_OUT = 20
"""Validation and test images: few, as what they cost is not what is claimed."""
TEMPERATURES = (1.0, 2.0, 4.0, 8.0)
WEIGHTS = (0.5, 0.9)
VARIABLE = "KTBENCH_DATA"


def images(steps: int) -> Dataset:
    """Return some batches of CIFAR-10 from `$KTBENCH_DATA`, else noise of the same shape."""
    spec = DataSpec(
        source="parquet", train_size=steps * BATCH, validation_size=HELD_OUT, test_size=HELD_OUT
    )
    folder = Path(os.environ.get(VARIABLE, ""), "cifar10")
    if VARIABLE in os.environ and folder.is_dir():
        return load(spec.model_copy(update={"path": str(folder)}), Path())
    source = torch.Generator().manual_seed(0)
    splits = {}
    for name, size in (("train", steps * BATCH), ("validation", HELD_OUT), ("test", HELD_OUT)):
        noise = torch.randint(0, 256, (size, 3, 32, 32), generator=source, dtype=torch.uint8)
        splits[name] = (noise, torch.randint(0, 10, (size,), generator=source))
    return Dataset(spec, tuple("0123456789"), splits)


def teacher(data: Dataset, name: str = TEACHER) -> Live:
    """An untrained teacher: what it says is of no account here."""
    torch.manual_seed(0)
    network = catalogue.build_student(name, {}, num_classes=10, in_channels=3)
    FIRST.place(network)
    return Live(network, trained_on=data, dataset=data)


def cells(data: Dataset) -> list[Cell]:
    """One student and eight distillations."""
    train = TrainSpec(epochs=1, batch_size=BATCH)
    numeric = NumericSpec(threads=1)
    alone = Cell(
        data=data.spec,
        student=Item(name=TEACHER),
        method=Item(name="none"),
        seed=0,
        train=train,
        numeric=numeric,
    )
    taught = Teacher(name="teacher", cell=alone)
    return [
        alone.model_copy(
            update={
                "student": Item(name=STUDENT),
                "method": Item(name="kd", settings={"temperature": t, "weight": w}),
                "teacher": taught,
            }
        )
        for t in TEMPERATURES
        for w in WEIGHTS
    ]


class Below:
    """Places for a cell's files in a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __call__(self, cell: Cell) -> Places:
        """The cell's own."""
        name = self.root / cell.key
        return Places(
            root=self.root,
            weights=name.with_suffix(".pt"),
            curves=name.with_suffix(".parquet"),
            work=name.with_suffix(".work"),
        )
