"""The ImageNet ResNets on small images: a 3 × 3 first convolution and no pooling before stage 1.

He et al., arXiv 1512.03385, table 1, with that change of the stem, as is usual on CIFAR.
"""

from __future__ import annotations

from torch import nn

from ktbench.students._contract import StagedNetwork, Student, scaled
from ktbench.students._layers import BlockStage, conv_bn, initialise
from ktbench.students._residual import basic_stage, bottleneck

DEPTHS = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3), "resnet50": (3, 4, 6, 3)}
VARIANTS = tuple(DEPTHS)


def build(variant: str, *, num_classes: int, in_channels: int, width: float = 1.0) -> Student:
    """A ResNet of freshly initialised weights."""
    stem = inputs = scaled(64, width)
    stages = []
    for index, depth in enumerate(DEPTHS[variant]):
        channels, stride = scaled(64 * 2**index, width), 2 if index else 1
        if variant == "resnet50":
            stages.append(_bottleneck_stage(inputs, channels, depth, stride))
            inputs = 4 * channels
        else:
            stages.append(basic_stage(inputs, channels, depth, stride))
            inputs = channels
    return initialise(
        StagedNetwork(
            stem=nn.Sequential(*conv_bn(in_channels, stem), nn.ReLU()),
            stages=stages,
            head=nn.Linear(inputs, num_classes),
        )
    )


def _bottleneck_stage(inputs: int, middle: int, depth: int, stride: int) -> BlockStage:
    outputs = 4 * middle
    blocks = [bottleneck(inputs, middle, outputs, stride)]
    blocks += [bottleneck(outputs, middle, outputs, 1) for _ in range(depth - 1)]
    return BlockStage(*blocks)
