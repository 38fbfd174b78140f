"""Low-rank convolution: 3 × 3 to a few channels, then 1 × 1 to all; no activation between.

Output channels as combinations of a few filters' answers: Zhang et al. (arXiv 1411.4229), section
2.1, there without the BatchNorm at the end. It begins as the best approximation of the convolution
that it stands for, in the sum of squares of the weights, where the block is a convolution.
"""

from __future__ import annotations

import torch
from torch import nn

from ktbench.students._blocks import Geometry
from ktbench.students._contract import scaled


def build(geometry: Geometry, *, rank: float = 0.25) -> nn.Module:
    """`rank` is the share of the block's outputs that the rank comes to, at least one."""
    middle = scaled(geometry.outputs, rank)
    return nn.Sequential(
        nn.Conv2d(geometry.inputs, middle, 3, geometry.stride, padding=1, bias=False),
        nn.Conv2d(middle, geometry.outputs, 1, bias=False),
        nn.BatchNorm2d(geometry.outputs),
    )


def adopt(replacement: nn.Module, block: nn.Sequential) -> None:
    """Start from the truncated singular value decomposition of the block's one convolution.

    Its bias, or the BatchNorm behind it, goes to the replacement's BatchNorm. A block that is
    anything else leaves the replacement as it is.
    """
    assert isinstance(replacement, nn.Sequential)
    spatial, mixing, norm = replacement
    original = block[0]
    assert isinstance(spatial, nn.Conv2d) and isinstance(mixing, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    if not isinstance(original, nn.Conv2d) or original.weight.shape[1:] != spatial.weight.shape[1:]:
        return
    behind = block[1] if len(block) > 1 else None
    if len(block) > 2 or not isinstance(behind, nn.BatchNorm2d | None):
        return
    _decompose(original, spatial, mixing)
    if behind is not None:
        norm.load_state_dict(behind.state_dict())
    if original.bias is not None:
        # Of the block without BatchNorm it is the shift; else it is subtracted from the mean.
        with torch.no_grad():
            if behind is None:
                norm.bias.copy_(original.bias)
            elif norm.running_mean is not None:
                norm.running_mean -= original.bias


@torch.no_grad()
def _decompose(original: nn.Conv2d, spatial: nn.Conv2d, mixing: nn.Conv2d) -> None:
    """The best product of the two for the weights of one, each with half of the scale."""
    rank = spatial.out_channels
    left, scale, right = torch.linalg.svd(original.weight.flatten(1).double(), full_matrices=False)
    root = scale[:rank].sqrt()
    # A rank above the convolution's own leaves what is beyond it at zero.
    spatial.weight.zero_()
    mixing.weight.zero_()
    size = len(root)
    first = (root[:, None] * right[:rank]).unflatten(1, spatial.weight.shape[1:])
    spatial.weight[:size] = first.to(spatial.weight)
    mixing.weight[:, :size] = (left[:, :rank] * root)[:, :, None, None].to(mixing.weight)
