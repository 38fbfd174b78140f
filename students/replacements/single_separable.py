"""One depthwise-separable convolution without a ReLU at the end: half of `separable`.

Howard et al., MobileNets (arXiv 1704.04861), figure 3, without its last ReLU.
"""

from __future__ import annotations

from torch import nn

from ktbench.students._blocks import Geometry
from ktbench.students._layers import separable


def build(geometry: Geometry) -> nn.Module:
    """A 3 × 3 convolution per input channel, with the stride, then 1 × 1 to the outputs."""
    return nn.Sequential(*separable(geometry.inputs, geometry.outputs, stride=geometry.stride))
