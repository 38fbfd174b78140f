"""Wide residual networks: pre-activation blocks, depth 6n + 4, widths multiplied by k.

Zagoruyko and Komodakis, arXiv 1605.07146, as `wrn_<depth>_<k>`. In a pre-activation network the
BatchNorm and ReLU that activate a stage's output are the first layers of the next stage. Here
they close the stage that they activate: `preacts` are the BatchNorm's outputs, `stages` follow
from them, and each BatchNorm runs once. Nothing is lost by it, as the blocks that begin stages 2
and 3 read only the activated map, on both their branches. The maps before that BatchNorm, the
sums of the last blocks, are shown as `sums`. The stem is the first convolution alone.
"""

from __future__ import annotations

from torch import Tensor, nn

from ktbench.students._contract import StagedNetwork, Student, scaled
from ktbench.students._layers import initialise

VARIANTS = ("wrn_16_1", "wrn_16_2", "wrn_40_1", "wrn_40_2")


def build(variant: str, *, num_classes: int, in_channels: int, width: float = 1.0) -> Student:
    """A wide ResNet of freshly initialised weights."""
    depth, k = (int(part) for part in variant.split("_")[1:])
    stem = scaled(16, width)
    channels = [stem, *(scaled(c * k, width) for c in (16, 32, 64))]
    blocks = (depth - 4) // 6
    return initialise(
        WideResNet(
            stem=_conv(in_channels, stem),
            stages=[_stage(channels[i], channels[i + 1], blocks, first=i == 0) for i in range(3)],
            head=nn.Linear(channels[-1], num_classes),
        )
    )


class WideResNet(StagedNetwork):
    """Stages that each end in the BatchNorm that the network's ReLU follows."""

    def run_stage(self, stage: nn.Module, x: Tensor, sums: list[Tensor]) -> Tensor:
        """See `StagedNetwork.run_stage`."""
        assert isinstance(stage, nn.Sequential)
        *blocks, closing = stage
        for block in blocks:
            x = block(x)
        sums.append(x)
        preact: Tensor = closing(x)
        return preact


class PreactivationBlock(nn.Module):
    """BatchNorm, ReLU and 3 × 3 convolution, twice, around an identity or 1 × 1 shortcut.

    An `opened` block's input is activated already, so it has no first BatchNorm.
    """

    def __init__(self, inputs: int, outputs: int, *, stride: int, opened: bool) -> None:
        super().__init__()
        self.opening = nn.Identity() if opened else nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU())
        self.residual = nn.Sequential(
            _conv(inputs, outputs, stride=stride),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            _conv(outputs, outputs),
        )
        self.projects = stride > 1 or inputs != outputs
        self.shortcut = (
            nn.Conv2d(inputs, outputs, 1, stride, bias=False) if self.projects else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', H', W'); a projecting shortcut reads the activated input."""
        activated = self.opening(x)
        shortcut = self.shortcut(activated if self.projects else x)
        summed: Tensor = self.residual(activated) + shortcut
        return summed


def _stage(inputs: int, outputs: int, depth: int, *, first: bool) -> nn.Sequential:
    """Blocks, and the BatchNorm that the network's ReLU follows."""
    stride = 1 if first else 2
    blocks = [PreactivationBlock(inputs, outputs, stride=stride, opened=not first)]
    blocks += [
        PreactivationBlock(outputs, outputs, stride=1, opened=False) for _ in range(depth - 1)
    ]
    return nn.Sequential(*blocks, nn.BatchNorm2d(outputs))


def _conv(inputs: int, outputs: int, *, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
