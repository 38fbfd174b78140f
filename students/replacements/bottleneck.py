"""Bottleneck: 1 × 1 to fewer channels, 3 × 3 with the stride, 1 × 1 back; no ReLU at the end.

The bottleneck of He et al. (arXiv 1512.03385), figure 5, without its shortcut: what a block
computes need not be near the identity.
"""

from __future__ import annotations

from torch import nn

from ktbench.students._blocks import Geometry
from ktbench.students._contract import scaled
from ktbench.students._layers import conv_bn


def build(geometry: Geometry, *, fraction: float = 0.25) -> nn.Module:
    """`fraction` of the block's outputs are the channels in the middle, at least one."""
    middle = scaled(geometry.outputs, fraction)
    return nn.Sequential(
        *conv_bn(geometry.inputs, middle, 1),
        nn.ReLU(),
        *conv_bn(middle, middle, stride=geometry.stride),
        nn.ReLU(),
        *conv_bn(middle, geometry.outputs, 1),
    )
