"""Networks and a method whose 1x1 convolutions with a stride meet a fault of oneDNN, or nearly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from ktbench.students._contract import Features
from ktbench.transfer_methods._contract import Batch, Needs, TransferMethod


class Plain(nn.Module):
    """Four channels, a middle that kinds differ in, and a classifier of its output."""

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(in_channels, 4, 3, padding=1)
        self.middle = self.make()
        self.head = nn.Linear(8, num_classes)

    def make(self) -> nn.Module:
        return nn.Conv2d(4, 8, 3, stride=2, padding=1)

    def run(self, x: Tensor) -> Tensor:
        return self.middle(x)  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.run(self.stem(x).sigmoid()).sigmoid().mean((2, 3)))  # type: ignore[no-any-return]


class Strided(Plain):
    """The layer of the fault, as a module."""

    def make(self) -> nn.Module:
        return nn.Conv2d(4, 8, 1, stride=2)


class OneWay(Plain):
    """A stride along one side alone."""

    def make(self) -> nn.Module:
        return nn.Conv2d(4, 8, 1, stride=(1, 2))


class Normed(Plain):
    """A layer whose weight is computed in every pass."""

    def make(self) -> nn.Module:
        return parametrizations.weight_norm(nn.Conv2d(4, 8, 1, stride=2))


class Functional(Plain):
    """The layer as a function, which no module tells of."""

    def make(self) -> nn.Module:
        return nn.Conv2d(4, 8, 1)

    def run(self, x: Tensor) -> Tensor:
        return functional.conv2d(x, self.middle.weight, self.middle.bias, stride=2)  # type: ignore[arg-type]


class TrainOnly(Functional):
    """The layer is there in train mode alone."""

    def run(self, x: Tensor) -> Tensor:
        return super().run(x) if self.training else self.middle(x)  # type: ignore[no-any-return]


class LaysOut(Strided):
    """Puts channels last itself, whatever it is given."""

    def run(self, x: Tensor) -> Tensor:
        return super().run(x.contiguous(memory_format=torch.channels_last))


class Grouped(Plain):
    """Groups of four channels: another kernel, which is right."""

    def make(self) -> nn.Module:
        return nn.Sequential(nn.Conv2d(4, 8, 1), nn.Conv2d(8, 8, 1, stride=2, groups=2))


class Wide(Plain):
    """A layer with as many channels as the kernel's block."""

    def make(self) -> nn.Module:
        return nn.Sequential(nn.Conv2d(4, 8, 1), nn.Conv2d(8, 8, 1, stride=2))


class Transposed(Plain):
    """A transposed convolution: another kernel, which is right."""

    def make(self) -> nn.Module:
        return nn.ConvTranspose2d(4, 8, 1, stride=2)


class Volumes(Plain):
    """A convolution over three dimensions, whose weight has five."""

    def make(self) -> nn.Module:
        return nn.Conv3d(4, 8, 1, stride=(1, 2, 2))

    def run(self, x: Tensor) -> Tensor:
        return self.middle(x.unsqueeze(2)).squeeze(2)  # type: ignore[no-any-return]


class Counting(Strided):
    """Counts its passes, and draws in each."""

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__(num_classes, in_channels)
        self.passes = 0
        self.norm = nn.BatchNorm2d(4)

    def run(self, x: Tensor) -> Tensor:
        self.passes += 1
        return super().run(functional.dropout(self.norm(x), 0.1, self.training))


MEETING = (Strided, OneWay, Normed, Functional, TrainOnly, LaysOut, Counting)
OTHERS = (Plain, Grouped, Wide, Transposed, Volumes)


class StridedAdaptor(TransferMethod):
    """A method whose own layer meets the fault on the student's features."""

    @dataclass(frozen=True)
    class Config:
        """No settings."""

    def __init__(self, config: Any, setting: Any) -> None:
        super().__init__(config, setting)
        self.adaptor = nn.Conv2d(setting.student.stages[0][0], 8, 1, stride=2)

    @classmethod
    def needs(cls, config: Any) -> Needs:
        return Needs()

    @classmethod
    def student_needs(cls, config: Any) -> Needs:
        return Needs(stages=True)

    def loss(self, student: Features, teacher: Features | None, batch: Batch) -> dict[str, Tensor]:
        ce = functional.cross_entropy(student.logits, batch.labels)
        return {"ce": ce, "own": 0.01 * self.adaptor(student.stages[0]).square().mean()}
