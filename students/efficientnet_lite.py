"""EfficientNet-Lite0: EfficientNet-B0 without squeeze-and-excite and with ReLU6, for integers.

Tan, Le: EfficientNet, arXiv 1905.11946, table 1, as changed for the Lite family (TensorFlow's
EfficientNet-Lite, 2020): no squeeze-and-excite, ReLU6 in place of swish, and a stem and a head of
fixed width. 4.65 million parameters for 1000 classes. Convolutions are padded as TensorFlow pads
them ("SAME"), so that published weights give their own logits.

Five stages, one per map size, that end in a linear bottleneck: there is no activation, so
`preacts` and `stages` are the same. The last 1 × 1 convolution belongs to the classifier's side.
The published dropout of 0.2 before the classifier is left out. Images of 32 pixels a side want
`stem_stride: 1`, as the published strides leave one position of them.
"""

from __future__ import annotations

from torch import Tensor, nn

from ktbench.students._contract import GlobalMean, Student, scaled
from ktbench.students._inverted import SameConv2d
from ktbench.students._layers import UnactivatedNetwork, initialise

VARIANTS = ("efficientnet_lite0",)
STEM, LAST = 32, 1280
EPSILON = 1e-3
STAGES: tuple[tuple[tuple[int, int, int, int, int], ...], ...] = (
    ((1, 16, 1, 1, 3),),
    ((6, 24, 2, 2, 3),),
    ((6, 40, 2, 2, 5),),
    ((6, 80, 3, 2, 3), (6, 112, 3, 1, 5)),
    ((6, 192, 4, 2, 5), (6, 320, 1, 1, 3)),
)
"""Per stage: expansion, channels, blocks, first stride and kernel of its runs."""


def build(
    variant: str, *, num_classes: int, in_channels: int, width: float = 1.0, stem_stride: int = 2
) -> Student:
    """An EfficientNet-Lite0 of freshly initialised weights; `width` leaves stem and head alone."""
    channels = STEM if width >= 1 else scaled(STEM, width)
    stem = nn.Sequential(*_layer(in_channels, channels, 3, stride=stem_stride), nn.ReLU6())
    stages: list[nn.Module] = []
    for runs in STAGES:
        blocks: list[nn.Module] = []
        for expansion, base, depth, stride, kernel in runs:
            outputs = scaled(base, width)
            for position in range(depth):
                step = 1 if position else stride
                blocks.append(Block(channels, expansion, outputs, kernel, step))
                channels = outputs
        stages.append(nn.Sequential(*blocks))
    last = LAST if width >= 1 else scaled(LAST, width)
    embed = nn.Sequential(*_layer(channels, last, 1), nn.ReLU6(), GlobalMean())
    head = nn.Linear(last, num_classes)
    return initialise(UnactivatedNetwork(stem=stem, stages=stages, embed=embed, head=head))


class Block(nn.Module):
    """Expansion, depthwise convolution, linear bottleneck; a shortcut where the shape stays."""

    def __init__(self, inputs: int, expansion: int, outputs: int, kernel: int, stride: int) -> None:
        super().__init__()
        middle = inputs * expansion
        expand = [*_layer(inputs, middle, 1), nn.ReLU6()] if expansion > 1 else []
        self.residual = nn.Sequential(
            *expand,
            *_layer(middle, middle, kernel, stride=stride, groups=middle),
            nn.ReLU6(),
            *_layer(middle, outputs, 1),
        )
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', H', W'), not activated."""
        residual: Tensor = self.residual(x)
        return x + residual if self.shortcut else residual


def _layer(
    inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    convolution = SameConv2d(
        inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False
    )
    return [convolution, nn.BatchNorm2d(outputs, eps=EPSILON)]
