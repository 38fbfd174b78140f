"""RepVGG: branches in training, one plain 3 × 3 convolution per layer in the exported file.

Ding et al., RepVGG: Making VGG-style ConvNets Great Again, arXiv 2101.03697, table 2. Each layer is
the sum of a 3 × 3 and a 1 × 1 convolution and the identity, each with its BatchNorm; for inference
they are one convolution (section 3.3, figure 4), which is what is exported: 8.31 million parameters
of A0 for 1000 classes, 9.11 million in training. `width` multiplies the published widths.

Stages, one per map size, are closed by a ReLU. Images of 32 pixels a side want `stem_stride: 1`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from ktbench.students._contract import Deployable, StagedNetwork, Student, scaled
from ktbench.students._layers import BlockStage, conv_bn, initialise

VARIANTS = ("repvgg_a0", "repvgg_a1", "repvgg_a2")
BLOCKS = (2, 4, 14, 1)
WIDTHS = {
    "repvgg_a0": (48, 48, 96, 192, 1280),
    "repvgg_a1": (64, 64, 128, 256, 1280),
    "repvgg_a2": (64, 96, 192, 384, 1408),
}
"""Channels of the first layer and of the four stages."""


def build(
    variant: str, *, num_classes: int, in_channels: int, width: float = 1.0, stem_stride: int = 2
) -> Student:
    """A RepVGG of freshly initialised weights."""
    first, *others = (scaled(channels, width) for channels in WIDTHS[variant])
    stem = nn.Sequential(Branches(in_channels, first, stem_stride), nn.ReLU())
    stages, channels = list[nn.Module](), first
    for outputs, depth in zip(others, BLOCKS, strict=True):
        blocks = []
        for position in range(depth):
            blocks.append(Branches(channels, outputs, 1 if position else 2))
            channels = outputs
        stages.append(BlockStage(*blocks))
    network = StagedNetwork(stem=stem, stages=stages, head=nn.Linear(channels, num_classes))
    return initialise(network)


class Branches(Deployable):
    """The layer before its ReLU: (B, C, H, W) to (B, C', H / stride, W / stride)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.wide = nn.Sequential(*conv_bn(inputs, outputs, 3, stride=stride))
        self.point = nn.Sequential(*conv_bn(inputs, outputs, 1, stride=stride))
        same = stride == 1 and inputs == outputs
        self.identity = nn.BatchNorm2d(outputs) if same else None

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        branches: Tensor = self.wide(x) + self.point(x)
        return branches if self.identity is None else branches + self.identity(x)

    def deployed(self) -> nn.Conv2d:
        """Return the one convolution that computes the same with the statistics as they stand.

        Computed in double precision.
        """
        wide = self.wide[0]
        assert isinstance(wide, nn.Conv2d)
        kernel, bias = _folded(wide.weight, self.wide[1])
        one, shift = _folded(self.point[0].weight, self.point[1])  # type: ignore[arg-type]
        kernel, bias = kernel + functional.pad(one, (1, 1, 1, 1)), bias + shift
        if self.identity is not None:
            unit = torch.eye(wide.out_channels)[:, :, None, None]
            one, shift = _folded(unit, self.identity)
            kernel, bias = kernel + functional.pad(one, (1, 1, 1, 1)), bias + shift
        fused = nn.Conv2d(wide.in_channels, wide.out_channels, 3, wide.stride[0], 1)
        fused.weight = nn.Parameter(kernel.float())
        fused.bias = nn.Parameter(bias.float())
        return fused


def _folded(weight: Tensor, norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Return kernel and bias of a convolution with the BatchNorm behind it, in double precision."""
    assert isinstance(norm, nn.BatchNorm2d) and norm.running_var is not None
    assert norm.running_mean is not None
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    shift = norm.bias.double() - norm.running_mean.double() * scale
    return weight.detach().double() * scale.detach().view(-1, 1, 1, 1), shift.detach()
