"""ShuffleNetV2 at its published widths (1×), for small images.

Ma et al., arXiv 1807.11164, table 5, with the 1 × 1 first convolution of the CIFAR comparison and
no pooling before stage 1; the last 1 × 1 convolution belongs to the classifier's side.

Half of a block's output is its unchanged input. It is not negative already, so that a stage's ReLU
over both halves leaves it as it is, and `preacts` hold the other half before its activation.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from ktbench.students._contract import GlobalMean, StagedNetwork, Student, scaled
from ktbench.students._layers import conv_bn, initialise, scaled_by, shuffle_channels

VARIANTS = ("shufflenet_v2",)
STAGES = ((116, 4), (232, 8), (464, 4))
"""Channels and blocks; each stage begins with stride 2."""


def build(variant: str, *, num_classes: int, in_channels: int, width: float = 1.0) -> Student:
    """A ShuffleNetV2 of freshly initialised weights."""
    channels = scaled(24, width)
    stem = nn.Sequential(*conv_bn(in_channels, channels, 1), nn.ReLU())
    stages = []
    for base, depth in STAGES:
        outputs = scaled_by(2, base, width)
        blocks: list[nn.Module] = [DownBlock(channels, outputs // 2)]
        blocks += [SplitBlock(outputs // 2, closing=i == depth - 1) for i in range(1, depth)]
        stages.append(nn.Sequential(*blocks))
        channels = outputs
    last = scaled(1024, width)
    embed = nn.Sequential(*conv_bn(channels, last, 1), nn.ReLU(), GlobalMean())
    head = nn.Linear(last, num_classes)
    return initialise(StagedNetwork(stem=stem, stages=stages, embed=embed, head=head))


class SplitBlock(nn.Module):
    """1 × 1, depthwise 3 × 3, 1 × 1 on one half of the channels; then the halves are shuffled.

    A stage's `closing` block leaves out its last ReLU, which the network applies.
    """

    def __init__(self, half: int, *, closing: bool) -> None:
        super().__init__()
        self.kept = half
        self.closing = closing
        self.branch = nn.Sequential(*_branch(half, half, stride=1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, 2 half, H, W), activated, to the same shape."""
        changed = self.branch(x[:, self.kept :])
        if not self.closing:
            changed = functional.relu(changed)
        return shuffle_channels(torch.cat((x[:, : self.kept], changed), 1), 2)


class DownBlock(nn.Module):
    """Two branches of stride 2 over the whole input, each of `half` channels, shuffled."""

    def __init__(self, inputs: int, half: int) -> None:
        super().__init__()
        self.short = nn.Sequential(
            *conv_bn(inputs, inputs, stride=2, groups=inputs), *conv_bn(inputs, half, 1), nn.ReLU()
        )
        self.long = nn.Sequential(*_branch(inputs, half, stride=2), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, 2 half, H/2, W/2), activated."""
        return shuffle_channels(torch.cat((self.short(x), self.long(x)), 1), 2)


def _branch(inputs: int, half: int, *, stride: int) -> list[nn.Module]:
    return [
        *conv_bn(inputs, half, 1),
        nn.ReLU(),
        *conv_bn(half, half, stride=stride, groups=half),
        *conv_bn(half, half, 1),
    ]
