"""DS-CNN: depthwise-separable convolutions over a spectrum, for keywords.

Zhang et al., "Hello Edge" (arXiv 1711.07128), with the sizes S, M and L of its authors' code; S is
the keyword network of MLPerf Tiny (Banbury et al., arXiv 2106.07597), there on maps of 49 frames ×
10 coefficients. A first convolution of 10 × 4, then separable ones of 3 × 3, one stage each, and
the mean of the last map. Dropout is left out; the convolutions have no bias, as each has a
BatchNorm. With 12 classes S has 23,180 weights; the 24,908 that Keras counts in MLPerf Tiny's hold
576 biases and 1,152 running statistics, too.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import nn

from ktbench.students._contract import StagedNetwork, Student, scaled
from ktbench.students._layers import initialise, separable


class Size(NamedTuple):
    """One of the paper's networks."""

    channels: int
    stride: tuple[int, int]
    """Steps of the first convolution in time and in frequency."""
    second: int
    """Stride of the first separable convolution."""
    depth: int
    """Separable convolutions."""


SIZES = {
    "ds_cnn_s": Size(64, (2, 2), 1, 4),
    "ds_cnn_m": Size(172, (2, 1), 2, 4),
    "ds_cnn_l": Size(276, (2, 1), 2, 5),
}
VARIANTS = tuple(SIZES)
AROUND = (1, 2, 4, 5)
"""Zeros left, right, above and below a map, so that a stride of 1 keeps its size."""


def build(variant: str, *, num_classes: int, in_channels: int, width: float = 1.0) -> Student:
    """A DS-CNN of freshly initialised weights for maps of time × frequency."""
    size = SIZES[variant]
    channels = scaled(size.channels, width)
    stem = nn.Sequential(
        nn.ZeroPad2d(AROUND),
        nn.Conv2d(in_channels, channels, (10, 4), size.stride, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
    )
    strides = (size.second, *(1 for _ in range(size.depth - 1)))
    stages = [nn.Sequential(*separable(channels, channels, stride=each)) for each in strides]
    head = nn.Linear(channels, num_classes)
    return initialise(StagedNetwork(stem=stem, stages=stages, head=head))
