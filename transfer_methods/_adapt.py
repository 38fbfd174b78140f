"""Makes two networks' stages comparable: one layout, one size, one width.

A stage is a map (B, C, H, W), tokens (B, N, D) or a vector (B, D). Everything is compared as a
map: tokens become one with D channels, square where N is a square number (row by row, as patches
are cut) and one column of N rows where it is not; a vector becomes a map of one position. Sizes
are made equal by average pooling to the smaller of the two in each direction.
"""

from __future__ import annotations

from math import isqrt, sqrt
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

Adapt = Literal["regressor", "embedding", "none"]
Normalise = Literal["batch", "sample", "none"]


def width_of(shape: tuple[int, ...]) -> int:
    """Channels of a map (C, H, W), tokens (N, D) or a vector (D,), without the batch."""
    return shape[1] if len(shape) == 2 else shape[0]


def size_of(shape: tuple[int, ...]) -> tuple[int, int]:
    """(H, W) of a stage seen as a map, without the batch."""
    if len(shape) == 3:
        return shape[1], shape[2]
    if len(shape) == 1:
        return 1, 1
    side = isqrt(shape[0])
    return (side, side) if side * side == shape[0] else (shape[0], 1)


def as_map(stage: Tensor) -> Tensor:
    """(B, C, H, W) of a map, tokens or a vector."""
    if stage.ndim == 4:
        return stage
    height, width = size_of(tuple(stage.shape[1:]))
    tokens = stage if stage.ndim == 3 else stage.unsqueeze(1)  # (B, N, D)
    return tokens.transpose(1, 2).reshape(stage.shape[0], -1, height, width)


def common_size(a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
    """The size at which two maps are compared."""
    if _column(a) != _column(b):
        return min(a[0] * a[1], b[0] * b[1]), 1
    return min(a[0], b[0]), min(a[1], b[1])


def aligned(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Both as maps of one size (B, *, H, W): the smaller in each direction.

    A column of tokens beside a map makes a column of the map, too.
    """
    a, b = as_map(a), as_map(b)
    a_size, b_size = _size(a), _size(b)
    if _column(a_size) != _column(b_size):
        a, b = a.flatten(2).unsqueeze(-1), b.flatten(2).unsqueeze(-1)
    size = common_size(a_size, b_size)
    return pooled(a, size), pooled(b, size)


def pooled(x: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, C, *size) by average pooling; plain windows where they fit, as they repeat exactly."""
    height, width = _size(x)
    if (height, width) == size:
        return x
    if height % size[0] == 0 and width % size[1] == 0:
        return functional.avg_pool2d(x, (height // size[0], width // size[1]))
    return functional.adaptive_avg_pool2d(x, size)


def _size(x: Tensor) -> tuple[int, int]:
    return int(x.shape[2]), int(x.shape[3])


def _column(size: tuple[int, int]) -> bool:
    return size[1] == 1 and size[0] > 1


class Direct(nn.Module):
    """Compares a student's stage with a teacher's of the same width as they are."""

    def forward(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """Both (B, C, H, W)."""
        return aligned(student, teacher)


class Regressor(nn.Module):
    """A convolution that takes the student's stage to the teacher's width (FitNets, section 3.1).

    Sizes are made equal before it, so that it costs the least.
    """

    def __init__(
        self, student: tuple[int, ...], teacher: tuple[int, ...], *, kernel: int = 1
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width_of(student), width_of(teacher), kernel, padding=kernel // 2)

    def forward(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """Both (B, C of the teacher, H, W)."""
        student, teacher = aligned(student, teacher)
        return self.conv(student), teacher


def adaptor(adapt: Adapt, student: tuple[int, ...], teacher: tuple[int, ...]) -> nn.Module:
    """The module that makes a pair of stages comparable.

    A stage of the teacher's own width needs nothing. `embedding`: 64 channels on both sides, each
    normalised over the batch.
    """
    if width_of(student) == width_of(teacher):
        return Direct()
    if adapt == "regressor":
        return Regressor(student, teacher)
    if adapt == "embedding":
        return ConvEmbedding(student, teacher, units=64)
    raise ValueError("the widths differ and adapt is none")


def normalised(embedding: Tensor, how: Normalise) -> Tensor:
    """Return an embedding (B, U) whose scale says nothing.

    `batch`: each unit has mean 0 and deviation 1 over the batch; `sample`: each sample's row has a
    root mean square of 1, its direction alone counts; `none`: as it is.
    """
    if how == "batch":
        centred = embedding - embedding.mean(0)
        return centred * (centred.square().mean(0) + _LEAST_VARIANCE).rsqrt()
    if how == "sample":
        return functional.normalize(embedding, dim=1) * sqrt(embedding.shape[1])
    return embedding


_LEAST_VARIANCE = 1e-10
"""A unit that hardly differs between samples stays small: what is left of it is rounding."""


class ConvEmbedding(nn.Module):
    """A 3x3 convolution on both sides, then the mean over positions (the edge transfer study)."""

    def __init__(
        self,
        student: tuple[int, ...],
        teacher: tuple[int, ...],
        *,
        units: int,
        normalise: Normalise = "batch",
    ) -> None:
        super().__init__()
        self.normalise: Normalise = normalise
        self.student = _small(nn.Conv2d(width_of(student), units, 3, padding=1))
        self.teacher = _small(nn.Conv2d(width_of(teacher), units, 3, padding=1))

    def forward(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """Both (B, units); the two sizes need not agree, as positions are averaged."""
        ours, theirs = (
            _mean_of(self.student, as_map(student)),
            _mean_of(self.teacher, as_map(teacher)),
        )
        return normalised(ours, self.normalise), normalised(theirs, self.normalise)


def _mean_of(conv: nn.Module, x: Tensor) -> Tensor:
    """(B, units): the mean over positions of a padded 3x3 convolution of x (B, C, H, W).

    As both are linear, each of the nine taps is applied once, to the sum of what it sees: all of
    x without the border that lies opposite to it.
    """
    assert isinstance(conv, nn.Conv2d)
    assert conv.bias is not None
    rows = x.sum(3)  # (B, C, H)
    first, last, whole = x[:, :, :, 0], x[:, :, :, -1], rows
    seen = []
    for columns in (whole - last, whole, whole - first):  # the taps to the left, middle, right
        total = columns.sum(2)
        seen.append(torch.stack((total - columns[:, :, -1], total, total - columns[:, :, 0]), 2))
    taps = torch.stack(seen, 3) / (x.shape[2] * x.shape[3])  # (B, C, 3, 3)
    return taps.flatten(1) @ conv.weight.flatten(1).T + conv.bias


class DenseEmbedding(nn.Module):
    """A dense layer over the whole flattened stage on both sides."""

    def __init__(
        self,
        student: tuple[int, ...],
        teacher: tuple[int, ...],
        *,
        units: int,
        normalise: Normalise = "batch",
    ) -> None:
        super().__init__()
        self.normalise: Normalise = normalise
        self.student = _small(nn.Linear(_elements(student), units))
        self.teacher = _small(nn.Linear(_elements(teacher), units))

    def forward(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """Both (B, units)."""
        ours, theirs = self.student(student.flatten(1)), self.teacher(teacher.flatten(1))
        return normalised(ours, self.normalise), normalised(theirs, self.normalise)


def _elements(shape: tuple[int, ...]) -> int:
    total = 1
    for length in shape:
        total *= length
    return total


def _small(layer: nn.Conv2d | nn.Linear) -> nn.Conv2d | nn.Linear:
    """The study's initialisation: normal with deviation 0.01, no bias at first."""
    nn.init.normal_(layer.weight, std=0.01)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


class BatchNorm(nn.BatchNorm2d):
    """Batch normalisation that takes its running figures where a channel has a single value."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) normalised per channel."""
        if self.training and input.numel() == input.shape[1]:
            return functional.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        return super().forward(input)


def conv_norm(ours: int, theirs: int, kernel: int = 1) -> nn.Sequential:
    """A convolution without bias that keeps the size, and batch normalisation."""
    conv = nn.Conv2d(ours, theirs, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, BatchNorm(theirs))
