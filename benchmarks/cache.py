"""Epochs whose teacher outputs are kept take over 80 % of the gain that there is to be had.

wrn_40_2 teaches wrn_16_2, batch 64, 32 × 32, one thread, one view of each image, six epochs: real
trainings, live and cached in turn, each the better of two. With t_T and t_S a step's seconds of
the teacher's pass and of all else, E epochs from a cache that was empty can at best be
E (t_T + t_S) / (t_T + E t_S) times as fast; both are taken from the live training of the same run.

The images are CIFAR-10's where `KTBENCH_DATA` names the folder that holds it, else noise, which
takes as long. `KTBENCH_CACHE_BENCH=quick` trains a small pair, so that a test can run it.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks._claim import Outcome
from ktbench import catalogue
from ktbench.data import Dataset, Split, Stream, load
from ktbench.records import (
    Augmentation,
    Cell,
    Checkpoint,
    DataSpec,
    Item,
    KtbenchError,
    NumericSpec,
    SourceSpec,
    Teacher,
    TrainSpec,
)
from ktbench.teacher.build import build_source
from ktbench.teacher.live import Live
from ktbench.train import Places, TrainingContext, train_cohort

BAR = 0.8
VARIABLE = "KTBENCH_CACHE_BENCH"
AUGMENT = Augmentation(crop_padding=4, flip=True)


@dataclass(frozen=True)
class Size:
    """Return the cell that is trained."""

    teacher: str = "wrn_40_2"
    student: str = "wrn_16_2"
    images: int = 320
    batch: int = 64
    epochs: int = 6
    rounds: int = 2


def run() -> Outcome:
    """Live and cached trainings in turn; their times, the ceiling, and whether weights agree."""
    quick = os.environ.get(VARIABLE) == "quick"
    size = Size("resnet20", "resnet8", images=64, batch=32, rounds=1) if quick else Size()
    data = _data(size)
    cell = _cell(size, data)
    live, cached = list[Checkpoint](), list[Checkpoint]()
    for _ in range(size.rounds):
        live.append(_trained(cell, data, "live"))
        cached.append(_trained(cell, data, "cached"))
    best = min(live, key=lambda made: made.cost.shared_seconds)
    slow = best.cost.shared_seconds
    quick_s = min(made.cost.shared_seconds for made in cached)
    teacher, student = best.cost.teacher_seconds, slow - best.cost.teacher_seconds
    ceiling = slow / (teacher / size.epochs + student)
    ratio, share = slow / quick_s, slow / quick_s / ceiling
    equal = len({made.digest for made in live + cached}) == 1
    steps = size.epochs * (size.images // size.batch)
    print(
        f"a step: teacher {1e3 * teacher / steps:.0f} ms, all else {1e3 * student / steps:.0f} ms"
    )
    print(f"{size.epochs} epochs: live {slow:.1f} s, cached {quick_s:.1f} s")
    print(f"ratio {ratio:.2f}, ceiling {ceiling:.2f}; weights {'equal' if equal else 'DIFFER'}")
    said = f"{100 * share:.0f} % of the ceiling ({ratio:.2f} of {ceiling:.2f} times)"
    return Outcome(said, f">= {100 * BAR:.0f} %, weights equal", equal and share >= BAR)


def _data(size: Size) -> Dataset:
    wanted = DataSpec(
        source="parquet",
        path="${KTBENCH_DATA}/cifar10",
        train_size=size.images,
        validation_size=10,
        test_size=10,
        augment=AUGMENT,
    )
    try:
        found = load(wanted, Path())
        print("images: CIFAR-10")
    except KtbenchError:
        print("images: noise (KTBENCH_DATA names no folder with cifar10)")
        found = _noise(wanted, size.images)
    return found


def _noise(spec: DataSpec, images: int) -> Dataset:
    generator = torch.Generator().manual_seed(0)
    counts: dict[Split, int] = {"train": images, "validation": 10, "test": 10}
    splits: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    for name, count in counts.items():
        pixels = torch.randint(0, 256, (count, 3, 32, 32), generator=generator, dtype=torch.uint8)
        splits[name] = (pixels, torch.randint(0, 10, (count,), generator=generator))
    return Dataset(spec=spec, classes=tuple("0123456789"), splits=splits)


def _cell(size: Size, data: Dataset) -> Cell:
    """The student's; its teacher is as it is built, since training changes no time."""
    train = TrainSpec(epochs=size.epochs, batch_size=size.batch, lr=0.01, views=1)
    numeric = NumericSpec(threads=1)
    taught = Cell(
        data=data.spec,
        student=Item(name=size.teacher),
        method=Item(name="none"),
        seed=0,
        train=train,
        numeric=numeric,
    )
    return taught.model_copy(
        update={
            "student": Item(name=size.student),
            "method": Item(name="kd"),
            "teacher": Teacher(name="t", cell=taught),
        }
    )


def _trained(cell: Cell, data: Dataset, source: str) -> Checkpoint:
    assert cell.teacher is not None
    name = cell.teachers[0].cell.student.name
    torch.manual_seed(0)
    network = catalogue.build_student(name, {}, num_classes=10, in_channels=3)
    live = Live(network, trained_on=data, dataset=data)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        own = build_source(
            live,
            taught=cell,
            stream=Stream(data, cell.seed, cell.train.batch_size, cell.train.views),
            teacher=(name, live.digest),
            spec=SourceSpec.model_validate({"source": source}),
            note=print,
            root=root / "outputs",
        )
        places = Places(root, root / "weights.pt", root / "curves.parquet", root / "work.pt")
        [made] = train_cohort(
            [cell], TrainingContext(dataset=data, teacher=own, places=lambda _: places, base=root)
        )
    assert isinstance(made, Checkpoint), made
    return made
