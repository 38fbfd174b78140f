"""MobileNet for small images: depthwise-separable convolutions throughout.

Howard et al., arXiv 1704.04861, table 1, with a first convolution of stride 1, so that 32 × 32
images reach the classifier as 2 × 2 maps. One stage per map size: 64, 128, 256, 512, 1024
channels.
"""

from __future__ import annotations

from torch import nn

from ktbench.students._contract import StagedNetwork, Student, scaled
from ktbench.students._layers import conv_bn, initialise, layered_stage, separable

VARIANTS = ("mobilenet_v1",)
STAGES = ((64, 1), (128, 2), (256, 2), (512, 6), (1024, 2))
"""Channels and separable convolutions; each stage but the first begins with stride 2."""


def build(variant: str, *, num_classes: int, in_channels: int, width: float = 1.0) -> Student:
    """A MobileNet of freshly initialised weights."""
    channels = scaled(32, width)
    stem = nn.Sequential(*conv_bn(in_channels, channels), nn.ReLU())
    stages = []
    for index, (base, depth) in enumerate(STAGES):
        layers = []
        for position in range(depth):
            outputs = scaled(base, width)
            stride = 2 if index and not position else 1
            layers.append(separable(channels, outputs, stride=stride))
            channels = outputs
        stages.append(layered_stage(layers))
    head = nn.Linear(channels, num_classes)
    return initialise(StagedNetwork(stem=stem, stages=stages, head=head))
