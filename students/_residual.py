"""Residual blocks that return their sum before its ReLU (He et al., arXiv 1512.03385)."""

from __future__ import annotations

from torch import Tensor, nn

from ktbench.students._layers import BlockStage, conv_bn


class ResidualBlock(nn.Module):
    """`residual(x) + shortcut(x)`, without the ReLU that follows.

    The shortcut is the identity where size and channels stay, and else a strided 1 × 1
    convolution.
    """

    def __init__(self, residual: nn.Module, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.residual = residual
        same = stride == 1 and inputs == outputs
        self.shortcut = (
            nn.Identity() if same else nn.Sequential(*conv_bn(inputs, outputs, 1, stride=stride))
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W), activated, to (B, C', H', W'), not activated."""
        summed: Tensor = self.residual(x) + self.shortcut(x)
        return summed


def basic_block(inputs: int, outputs: int, stride: int) -> ResidualBlock:
    """Two 3 × 3 convolutions."""
    residual = nn.Sequential(
        *conv_bn(inputs, outputs, stride=stride), nn.ReLU(), *conv_bn(outputs, outputs)
    )
    return ResidualBlock(residual, inputs, outputs, stride)


def bottleneck(inputs: int, middle: int, outputs: int, stride: int) -> ResidualBlock:
    """1 × 1 down to `middle`, 3 × 3 with the stride, 1 × 1 up."""
    residual = nn.Sequential(
        *conv_bn(inputs, middle, 1),
        nn.ReLU(),
        *conv_bn(middle, middle, stride=stride),
        nn.ReLU(),
        *conv_bn(middle, outputs, 1),
    )
    return ResidualBlock(residual, inputs, outputs, stride)


def basic_stage(inputs: int, outputs: int, depth: int, stride: int) -> BlockStage:
    """`depth` basic blocks, the first with the stride."""
    blocks = [basic_block(inputs, outputs, stride)]
    blocks += [basic_block(outputs, outputs, 1) for _ in range(depth - 1)]
    return BlockStage(*blocks)
