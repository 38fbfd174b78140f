"""MobileNetV2 of the CIFAR comparison: half the published widths, smaller strides.

Sandler et al., arXiv 1801.04381, table 2, with widths × 0.5 and strides for 32 × 32 images; the
first block keeps a 1 × 1 convolution that expands nothing, as the comparison's does. `width`
multiplies the halved widths. The last convolution has 1280 channels, fewer only for widths below
1.

Four stages, one per map size, that end in a linear bottleneck: there is no activation, so
`preacts` and `stages` are the same. The last 1 × 1 convolution belongs to the classifier's side.
"""

from __future__ import annotations

from torch import Tensor, nn

from ktbench.students._contract import GlobalMean, Student, scaled
from ktbench.students._layers import UnactivatedNetwork, conv_bn, initialise

VARIANTS = ("mobilenet_v2",)
HALF = 0.5
EXPANSION = 6
STAGES: tuple[tuple[tuple[int, int, int], ...], ...] = (
    ((16, 1, 1), (24, 2, 1)),
    ((32, 3, 2),),
    ((64, 4, 2), (96, 3, 1)),
    ((160, 3, 2), (320, 1, 1)),
)
"""Per stage: channels, blocks and first stride of its runs."""


def build(variant: str, *, num_classes: int, in_channels: int, width: float = 1.0) -> Student:
    """A MobileNetV2 of freshly initialised weights."""
    channels = scaled(32, HALF * width)
    stem = nn.Sequential(*conv_bn(in_channels, channels, stride=2), nn.ReLU())
    stages: list[nn.Module] = []
    for runs in STAGES:
        blocks: list[nn.Module] = []
        for base, depth, stride in runs:
            outputs = scaled(base, HALF * width)
            for position in range(depth):
                middle = channels * (EXPANSION if stages or blocks else 1)
                step = 1 if position else stride
                blocks.append(InvertedResidual(channels, middle, outputs, step))
                channels = outputs
        stages.append(nn.Sequential(*blocks))
    last = 1280 if width >= 1 else scaled(1280, width)
    embed = nn.Sequential(*conv_bn(channels, last, 1), nn.ReLU(), GlobalMean())
    head = nn.Linear(last, num_classes)
    return initialise(UnactivatedNetwork(stem=stem, stages=stages, embed=embed, head=head))


class InvertedResidual(nn.Module):
    """Expansion, depthwise convolution, linear bottleneck; a shortcut where the shape stays."""

    def __init__(self, inputs: int, middle: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            *conv_bn(inputs, middle, 1),
            nn.ReLU(),
            *conv_bn(middle, middle, stride=stride, groups=middle),
            nn.ReLU(),
            *conv_bn(middle, outputs, 1),
        )
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', H', W'), not activated."""
        residual: Tensor = self.residual(x)
        return x + residual if self.shortcut else residual
