"""MobileNetV3, large and small, as published for photographs.

Howard et al., Searching for MobileNetV3, arXiv 1905.02244, tables 1 and 2: inverted residuals with
squeeze-and-excite in some and hard swish in the later ones; 5.48 and 2.54 million parameters for
1000 classes. `width` multiplies the widths, rounded to multiples of 8 as published.

Stages, one per map size, end in a linear bottleneck: there is no activation, so `preacts` and
`stages` are the same. The last 1 × 1 convolution and the layer behind the mean belong to the
classifier's side. The published dropout before the classifier is left out. Images of 32 pixels a
side want `stem_stride: 1`, as the published strides leave one position of them.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional

from ktbench.students._contract import GlobalMean, Student
from ktbench.students._inverted import SqueezeExcite, divisible
from ktbench.students._layers import UnactivatedNetwork, initialise

VARIANTS = ("mobilenet_v3_large", "mobilenet_v3_small")
EPSILON = 1e-3


class Row(NamedTuple):
    """One line of the paper's tables."""

    kernel: int
    expanded: int
    outputs: int
    squeeze: bool
    swish: bool
    stride: int


def _rows(*lines: tuple[int, int, int, int, int, int]) -> tuple[Row, ...]:
    return tuple(Row(k, e, o, bool(se), bool(hs), s) for k, e, o, se, hs, s in lines)


ROWS = {
    "mobilenet_v3_large": _rows(
        (3, 16, 16, 0, 0, 1),
        (3, 64, 24, 0, 0, 2),
        (3, 72, 24, 0, 0, 1),
        (5, 72, 40, 1, 0, 2),
        (5, 120, 40, 1, 0, 1),
        (5, 120, 40, 1, 0, 1),
        (3, 240, 80, 0, 1, 2),
        (3, 200, 80, 0, 1, 1),
        (3, 184, 80, 0, 1, 1),
        (3, 184, 80, 0, 1, 1),
        (3, 480, 112, 1, 1, 1),
        (3, 672, 112, 1, 1, 1),
        (5, 672, 160, 1, 1, 2),
        (5, 960, 160, 1, 1, 1),
        (5, 960, 160, 1, 1, 1),
    ),
    "mobilenet_v3_small": _rows(
        (3, 16, 16, 1, 0, 2),
        (3, 72, 24, 0, 0, 2),
        (3, 88, 24, 0, 0, 1),
        (5, 96, 40, 1, 1, 2),
        (5, 240, 40, 1, 1, 1),
        (5, 240, 40, 1, 1, 1),
        (5, 120, 48, 1, 1, 1),
        (5, 144, 48, 1, 1, 1),
        (5, 288, 96, 1, 1, 2),
        (5, 576, 96, 1, 1, 1),
        (5, 576, 96, 1, 1, 1),
    ),
}
HIDDEN = {"mobilenet_v3_large": 1280, "mobilenet_v3_small": 1024}


def build(
    variant: str, *, num_classes: int, in_channels: int, width: float = 1.0, stem_stride: int = 2
) -> Student:
    """A MobileNetV3 of freshly initialised weights.

    Raises ValueError for a width that is not above zero.
    """
    if not width > 0:
        raise ValueError(f"width must be above 0, not {width}")
    channels = divisible(16 * width)
    stem = nn.Sequential(*_layer(in_channels, channels, 3, stride=stem_stride), nn.Hardswish())
    stages: list[list[nn.Module]] = [[]]
    for row in ROWS[variant]:
        if row.stride > 1 and stages[-1]:
            stages.append([])
        outputs = divisible(row.outputs * width)
        stages[-1].append(Block(channels, divisible(row.expanded * width), outputs, row))
        channels = outputs
    last = 6 * channels
    hidden = HIDDEN[variant] if width >= 1 else divisible(HIDDEN[variant] * width)
    embed = nn.Sequential(
        *_layer(channels, last, 1),
        nn.Hardswish(),
        GlobalMean(),
        nn.Linear(last, hidden),
        nn.Hardswish(),
    )
    network = UnactivatedNetwork(
        stem=stem,
        stages=[nn.Sequential(*blocks) for blocks in stages],
        embed=embed,
        head=nn.Linear(hidden, num_classes),
    )
    for module in initialise(network).modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
            nn.init.zeros_(module.bias)
    return network


class Block(nn.Module):
    """Expansion, depthwise convolution, gate, linear bottleneck; a shortcut if the shape stays."""

    def __init__(self, inputs: int, middle: int, outputs: int, row: Row) -> None:
        super().__init__()
        active = nn.Hardswish if row.swish else nn.ReLU
        expand = [*_layer(inputs, middle, 1), active()] if middle != inputs else []
        gate = SqueezeExcite(middle, divisible(middle / 4), functional.hardsigmoid)
        self.residual = nn.Sequential(
            *expand,
            *_layer(middle, middle, row.kernel, stride=row.stride, groups=middle),
            active(),
            *([gate] if row.squeeze else []),
            *_layer(middle, outputs, 1),
        )
        self.shortcut = row.stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', H', W'), not activated."""
        residual: Tensor = self.residual(x)
        return x + residual if self.shortcut else residual


def _layer(
    inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    return [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs, eps=EPSILON, momentum=0.01),
    ]
