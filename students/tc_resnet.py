"""TC-ResNet: convolutions over time alone, with a spectrum's frequencies as channels, for keywords.

Choi et al., arXiv 1904.03814, figure 2 and table 1: a convolution of 3 frames, then residual blocks
of two convolutions of 9 frames; a block of another width has stride 2 and, on its shortcut, a
convolution with BatchNorm and ReLU. TC-ResNet8 has 16, 24, 32 and 48 channels, TC-ResNet14 two
blocks of each of the last three widths; the paper's TC-ResNet14-1.5 is `width: 1.5`. One stage per
width. Dropout is left out.
"""

from __future__ import annotations

from torch import Tensor, nn

from ktbench.students._contract import StagedNetwork, Student, scaled
from ktbench.students._layers import BlockStage, initialise

DEPTHS = {"tc_resnet8": 1, "tc_resnet14": 2}
"""Residual blocks per width."""
VARIANTS = tuple(DEPTHS)
WIDTHS = (16, 24, 32, 48)


def build(variant: str, *, num_classes: int, bins: int, width: float = 1.0) -> Student:
    """A TC-ResNet of freshly initialised weights for maps (1, frames, `bins`)."""
    first, *widths = (scaled(channels, width) for channels in WIDTHS)
    stem = nn.Sequential(
        FrequenciesAsChannels(),
        *_over_time(bins, first, 3),
        nn.ReLU(),
    )
    stages, channels = [], first
    for outputs in widths:
        later = [Block(outputs, outputs, 1) for _ in range(DEPTHS[variant] - 1)]
        stages.append(BlockStage(Block(channels, outputs, 2), *later))
        channels = outputs
    head = nn.Linear(channels, num_classes)
    return initialise(StagedNetwork(stem=stem, stages=stages, head=head))


class FrequenciesAsChannels(nn.Module):
    """Maps (B, 1, frames, bins) to (B, bins, frames, 1)."""

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return x.permute(0, 3, 2, 1)


class Block(nn.Module):
    """Two convolutions over time and a shortcut, before the last ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Sequential(*_over_time(inputs, outputs, 9, stride), nn.ReLU())
        self.second = nn.Sequential(*_over_time(outputs, outputs, 9))
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1:
            self.shortcut = nn.Sequential(*_over_time(inputs, outputs, 1, stride), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, N, 1), activated, to (B, C', N', 1), not activated."""
        total: Tensor = self.second(self.first(x)) + self.shortcut(x)
        return total


def _over_time(inputs: int, outputs: int, frames: int, stride: int = 1) -> list[nn.Module]:
    padding = (frames // 2, 0)
    return [
        nn.Conv2d(inputs, outputs, (frames, 1), (stride, 1), padding, bias=False),
        nn.BatchNorm2d(outputs),
    ]
