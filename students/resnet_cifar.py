"""ResNets for small images: three stages of basic blocks, depth 6n + 2.

He et al., arXiv 1512.03385, section 4.2, with the 1 × 1 shortcuts and the four-fold wide
`resnet8x4` and `resnet32x4` of the CIFAR comparison of distillation methods.
"""

from __future__ import annotations

from torch import nn

from ktbench.students._contract import StagedNetwork, Student, scaled
from ktbench.students._layers import conv_bn, initialise
from ktbench.students._residual import basic_stage

NARROW, WIDE = (16, 16, 32, 64), (32, 64, 128, 256)
"""Channels of the stem and of the three stages."""
NETWORKS = {f"resnet{depth}": (depth, NARROW) for depth in (8, 14, 20, 32, 44, 56, 110)} | {
    f"resnet{depth}x4": (depth, WIDE) for depth in (8, 32)
}
VARIANTS = tuple(NETWORKS)


def build(variant: str, *, num_classes: int, in_channels: int, width: float = 1.0) -> Student:
    """A ResNet of freshly initialised weights."""
    depth, widths = NETWORKS[variant]
    channels = [scaled(c, width) for c in widths]
    blocks = (depth - 2) // 6
    stages = [
        basic_stage(channels[i], channels[i + 1], blocks, stride=2 if i else 1) for i in range(3)
    ]
    return initialise(
        StagedNetwork(
            stem=nn.Sequential(*conv_bn(in_channels, channels[0]), nn.ReLU()),
            stages=stages,
            head=nn.Linear(channels[-1], num_classes),
        )
    )
