"""ShuffleNet with three groups, for small images.

Zhang et al., arXiv 1707.01083, table 1 (g = 3), with the 1 × 1 first convolution of the CIFAR
comparison and no pooling before stage 1, and a ReLU after the depthwise convolution. Widths stay
multiples of 12, so that every grouped convolution divides.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from ktbench.students._contract import StagedNetwork, Student
from ktbench.students._layers import (
    BlockStage,
    conv_bn,
    initialise,
    scaled_by,
    shuffle_channels,
)

VARIANTS = ("shufflenet_v1",)
GROUPS = 3
STAGES = ((240, 4), (480, 8), (960, 4))
"""Channels and blocks; each stage begins with stride 2."""


def build(variant: str, *, num_classes: int, in_channels: int, width: float = 1.0) -> Student:
    """A ShuffleNet of freshly initialised weights."""
    channels = scaled_by(4 * GROUPS, 24, width)
    stem = nn.Sequential(*conv_bn(in_channels, channels, 1), nn.ReLU())
    stages: list[nn.Module] = []
    for base, depth in STAGES:
        outputs = scaled_by(4 * GROUPS, base, width, above=channels)
        groups = GROUPS if stages else 1
        blocks = [ShuffleBlock(channels, outputs, stride=2, groups=groups)]
        blocks += [ShuffleBlock(outputs, outputs, stride=1) for _ in range(depth - 1)]
        stages.append(BlockStage(*blocks))
        channels = outputs
    head = nn.Linear(channels, num_classes)
    return initialise(StagedNetwork(stem=stem, stages=stages, head=head))


class ShuffleBlock(nn.Module):
    """Grouped 1 × 1, shuffle, depthwise 3 × 3, grouped 1 × 1; without the ReLU that follows.

    With stride 2 the pooled input is set beside the result, else added to it. `groups` is that
    of the first convolution, as the network's first block reads too few channels to divide.
    """

    def __init__(self, inputs: int, outputs: int, *, stride: int, groups: int = GROUPS) -> None:
        super().__init__()
        self.strided = stride > 1
        self.groups = groups
        added = outputs - inputs if self.strided else outputs
        middle = added // 4
        self.reduce = nn.Sequential(*conv_bn(inputs, middle, 1, groups=groups), nn.ReLU())
        self.expand = nn.Sequential(
            *conv_bn(middle, middle, stride=stride, groups=middle),
            nn.ReLU(),
            *conv_bn(middle, added, 1, groups=GROUPS),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W), activated, to (B, C', H', W'), not activated."""
        residual: Tensor = self.expand(shuffle_channels(self.reduce(x), self.groups))
        if self.strided:
            return torch.cat((residual, functional.avg_pool2d(x, 3, 2, padding=1)), 1)
        return residual + x
