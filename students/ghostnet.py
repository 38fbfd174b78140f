"""GhostNet: half of each layer's maps are computed from the other half by cheap convolutions.

Han et al., GhostNet: More Features from Cheap Operations, arXiv 1911.11907, table 1, with the ghost
module of section 3.1 (ratio 2, depthwise 3 × 3). 5.18 million parameters for 1000 classes. `width`
multiplies the widths, rounded to multiples of 4 as in the authors' code, whose squeeze-and-excite
layers this follows.

Stages, one per map size, end without an activation, so `preacts` and `stages` are the same. The
last 1 × 1 convolution and the layer behind the mean belong to the classifier's side; the published
dropout is left out. Images of 32 pixels a side want `stem_stride: 1`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from ktbench.students._contract import GlobalMean, Student
from ktbench.students._inverted import SqueezeExcite, divisible
from ktbench.students._layers import UnactivatedNetwork, conv_bn, initialise

VARIANTS = ("ghostnet",)
HIDDEN = 1280


class Row(NamedTuple):
    """One line of the paper's table."""

    kernel: int
    expanded: int
    outputs: int
    squeeze: bool
    stride: int


ROWS = tuple(
    Row(kernel, expanded, outputs, bool(squeeze), stride)
    for kernel, expanded, outputs, squeeze, stride in (
        (3, 16, 16, 0, 1),
        (3, 48, 24, 0, 2),
        (3, 72, 24, 0, 1),
        (5, 72, 40, 1, 2),
        (5, 120, 40, 1, 1),
        (3, 240, 80, 0, 2),
        (3, 200, 80, 0, 1),
        (3, 184, 80, 0, 1),
        (3, 184, 80, 0, 1),
        (3, 480, 112, 1, 1),
        (3, 672, 112, 1, 1),
        (5, 672, 160, 1, 2),
        (5, 960, 160, 0, 1),
        (5, 960, 160, 1, 1),
        (5, 960, 160, 0, 1),
        (5, 960, 160, 1, 1),
    )
)


def build(
    variant: str, *, num_classes: int, in_channels: int, width: float = 1.0, stem_stride: int = 2
) -> Student:
    """A GhostNet of freshly initialised weights.

    Raises ValueError for a width that is not above zero.
    """
    if not width > 0:
        raise ValueError(f"width must be above 0, not {width}")
    channels = divisible(16 * width, 4)
    stem = nn.Sequential(*conv_bn(in_channels, channels, stride=stem_stride), nn.ReLU())
    stages: list[list[nn.Module]] = [[]]
    for row in ROWS:
        if row.stride > 1:
            stages.append([])
        outputs, middle = (divisible(n * width, 4) for n in (row.outputs, row.expanded))
        stages[-1].append(Bottleneck(channels, middle, outputs, row))
        channels = outputs
    last = divisible(960 * width, 4)
    hidden = HIDDEN if width >= 1 else divisible(HIDDEN * width, 4)
    embed = nn.Sequential(
        *conv_bn(channels, last, 1), nn.ReLU(), GlobalMean(), nn.Linear(last, hidden), nn.ReLU()
    )
    network = UnactivatedNetwork(
        stem=stem,
        stages=[nn.Sequential(*blocks) for blocks in stages],
        embed=embed,
        head=nn.Linear(hidden, num_classes),
    )
    return initialise(network)


class Ghost(nn.Module):
    """Maps of a 1 × 1 convolution, and as many that a depthwise one makes of them.

    (B, C, H, W) to (B, outputs, H, W).
    """

    def __init__(self, inputs: int, outputs: int, *, active: bool) -> None:
        super().__init__()
        half = -(-outputs // 2)
        self.outputs = outputs
        self.primary = nn.Sequential(*conv_bn(inputs, half, 1))
        self.cheap = nn.Sequential(*conv_bn(half, half, 3, groups=half))
        self.active = active

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        primary = self._activated(self.primary(x))
        both = torch.cat((primary, self._activated(self.cheap(primary))), 1)
        return both if both.shape[1] == self.outputs else both[:, : self.outputs]

    def _activated(self, x: Tensor) -> Tensor:
        return functional.relu(x) if self.active else x


class Bottleneck(nn.Module):
    """Two ghost modules, with a strided depthwise convolution and a gate between them."""

    def __init__(self, inputs: int, middle: int, outputs: int, row: Row) -> None:
        super().__init__()
        kernel, stride = row.kernel, row.stride
        strided = conv_bn(middle, middle, kernel, stride=stride, groups=middle)
        gate = SqueezeExcite(middle, divisible(middle / 4, 4), functional.hardsigmoid)
        self.residual = nn.Sequential(
            Ghost(inputs, middle, active=True),
            *(strided if stride > 1 else []),
            *([gate] if row.squeeze else []),
            Ghost(middle, outputs, active=False),
        )
        if stride == 1 and inputs == outputs:
            self.shortcut = nn.Sequential()
        else:
            self.shortcut = nn.Sequential(
                *conv_bn(inputs, inputs, kernel, stride=stride, groups=inputs),
                *conv_bn(inputs, outputs, 1),
            )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', H', W'), not activated."""
        residual: Tensor = self.residual(x)
        shortcut: Tensor = self.shortcut(x)
        return residual + shortcut
