"""Shared parts of the training benchmarks: images, a teacher, a trainee, a plain loop."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from ktbench import catalogue
from ktbench.data import Dataset, Stream
from ktbench.networks.numeric import EVERYTHING
from ktbench.records import (
    Augmentation,
    Cell,
    DataSpec,
    Item,
    NumericSpec,
    Teacher,
    TrainSpec,
)
from ktbench.students._contract import Features, Student
from ktbench.teacher.live import Live
from ktbench.train.context import SharedInputs
from ktbench.train.device_placement import make_batch, make_probe
from ktbench.train.trainee import Trainee
from ktbench.transfer_methods._contract import Batch

HERE = Path()


@dataclass(frozen=True)
class Pair:
    """A teacher and a student, and what a step of theirs takes in."""

    teacher: str = "wrn_40_2"
    student: str = "wrn_16_2"
    image: int = 32
    batch: int = 64
    classes: int = 100
    images: int = 640


def images_of(pair: Pair, *, test: int = 16) -> Dataset:
    """Noise: no time depends on what the images show."""
    draw = torch.Generator().manual_seed(0)

    def split(count: int) -> tuple[Tensor, Tensor]:
        shape = (count, 3, pair.image, pair.image)
        return (
            torch.randint(256, shape, generator=draw, dtype=torch.uint8),
            torch.randint(pair.classes, (count,), generator=draw),
        )

    sizes = {"train": pair.images, "validation": test, "test": test}
    return Dataset(
        spec=DataSpec(
            source="folder", path="noise", augment=Augmentation(crop_padding=4, flip=True)
        ),
        classes=tuple(str(i) for i in range(pair.classes)),
        splits={name: split(size) for name, size in sizes.items()},
    )


def network(name: str, classes: int, seed: int = 0) -> Student:
    """A network with random weights, as its own file lays it out: contiguous."""
    torch.manual_seed(seed)
    return catalogue.build_student(name, {}, num_classes=classes, in_channels=3)


def cell_of(
    pair: Pair,
    data: Dataset,
    *,
    method: Item,
    numeric: NumericSpec,
    train: TrainSpec | None = None,
    seed: int = 0,
) -> Cell:
    """A student of the pair, taught by its teacher."""
    train = train or TrainSpec(epochs=100, batch_size=pair.batch, schedule="constant")
    taught = Cell(
        data=data.spec,
        student=Item(name=pair.teacher),
        method=Item(name="none"),
        seed=0,
        train=train,
        numeric=numeric,
    )
    return taught.model_copy(
        update={
            "student": Item(name=pair.student),
            "method": method,
            "teacher": Teacher(name="t", cell=taught),
            "seed": seed,
        }
    )


class Ours:
    """A trainee of the training loop and its live teacher, step by step."""

    def __init__(self, cell: Cell, data: Dataset, teacher: Student) -> None:
        self.source = Live(teacher, trained_on=data, dataset=data, numeric=cell.numeric)
        stream = Stream(data, cell.seed, cell.train.batch_size)
        probe = make_probe(stream)
        shown = self.source.outputs(probe, EVERYTHING)
        shared = SharedInputs(data, HERE, probe, shown, self.source.stage_names)
        self.trainee = Trainee(cell, shared)

    def teach(self, batch: Batch) -> Features:
        """The teacher's pass."""
        return self.source.outputs(batch, self.trainee.needs(batch.progress))

    def step(self, batch: Batch) -> None:
        """One step with the teacher's pass."""
        self.trainee.step(batch, self.teach(batch))


class Plain:
    """Hinton's distillation as a plain PyTorch loop writes it, all tensors contiguous."""

    def __init__(
        self, cell: Cell, student: Student, teacher: Student, temperature: float = 4.0
    ) -> None:
        self.student, self.teacher = student.train(), teacher.eval()
        self.temperature = temperature
        self.optimiser = torch.optim.SGD(
            student.parameters(),
            lr=cell.train.lr,
            momentum=cell.train.momentum,
            weight_decay=cell.train.weight_decay,
        )

    def step(self, inputs: Tensor, labels: Tensor) -> float:
        """One step; the loss is read, as such loops log it."""
        self.optimiser.zero_grad()
        loss = self.loss(self.student, inputs, labels)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        return float(loss.detach())

    def loss(self, student: Student, inputs: Tensor, labels: Tensor) -> Tensor:
        """0.1 CE + 0.9 T² KL: the method `kd` with its default weights."""
        logits, t = student(inputs), self.temperature
        with torch.no_grad():
            theirs = self.teacher(inputs)
        soft = functional.kl_div(
            functional.log_softmax(logits / t, dim=1),
            functional.softmax(theirs / t, dim=1),
            reduction="batchmean",
        )
        return 0.1 * functional.cross_entropy(logits, labels) + 0.9 * t * t * soft


def batches(data: Dataset, pair: Pair, count: int, seed: int = 0) -> list[Batch]:
    """The first batches of a training, augmented and normalised, as the loop is given them."""
    stream = Stream(data, seed, pair.batch)
    made: list[Batch] = []
    for epoch in range(count):
        for indices in stream.order(epoch):
            if len(made) == count:
                return made
            step = len(made)
            made.append(
                make_batch(
                    stream,
                    indices,
                    epoch=epoch,
                    step=step,
                    steps=100 * stream.steps_per_epoch,
                    device=torch.device("cpu"),
                )
            )
    return made
