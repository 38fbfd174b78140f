"""Two depthwise-separable convolutions without a ReLU at the end.

The study's form (`depthwise_separable`) with the last ReLU left out: what follows in the network
activates, as it did the block's own output, which may be negative.
"""

from __future__ import annotations

from torch import nn

from ktbench.students._blocks import Geometry
from ktbench.students._layers import separable


def build(geometry: Geometry) -> nn.Module:
    """Build both with as many filters as the block has outputs; the first has the stride."""
    return nn.Sequential(
        *separable(geometry.inputs, geometry.outputs, stride=geometry.stride),
        nn.ReLU(),
        *separable(geometry.outputs, geometry.outputs),
    )
