"""Two depthwise-separable convolutions, each ending in a ReLU, as in the blockwise study.

Blakeney et al., Parallel Blockwise Knowledge Distillation (arXiv 2012.03096). Its output is never
negative, so it cannot reach a target from before an activation: `separable` can.
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
        nn.ReLU(),
    )
