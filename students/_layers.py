"""Layers that several families share: plain operations that every exporter knows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

from torch import Tensor, nn
from torch.nn import functional

from ktbench.students._contract import Heads, StagedNetwork, scaled

ConvLayer = Callable[[int, int], list[nn.Module]]
"""Builds a convolution with its normalisation for (in, out) channels, without an activation."""

Net = TypeVar("Net", bound=nn.Module)


class Halve(nn.Module):
    """Max pooling 2 × 2 of maps whose shorter side is above `floor`; smaller ones pass unchanged.

    The choice depends on the image's size alone, so an exported graph holds one of the two.
    """

    def __init__(self, floor: int = 1) -> None:
        super().__init__()
        self.floor = floor

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        if min(x.shape[2], x.shape[3]) <= self.floor:
            return x
        return functional.max_pool2d(x, 2)


class BlockStage(nn.Sequential):
    """Blocks that return their output before its ReLU, which stands between them.

    The last block's output leaves without it: the network applies it (`StagedNetwork.activate`).
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W), activated, to (B, C', H', W'), not activated."""
        for index, block in enumerate(self):
            x = block(functional.relu(x) if index else x)
        return x


class UnactivatedNetwork(StagedNetwork):
    """A network whose stages end without an activation: `preacts` and `stages` are the same."""

    def activate(self, preact: Tensor) -> Tensor:
        """The stage's output itself."""
        return preact


def scaled_by(step: int, channels: int, width: float, *, above: int = 0) -> int:
    """A layer's width under a multiplier, a multiple of `step` greater than `above`."""
    return max(round(scaled(channels, width) / step), above // step + 1) * step


def conv_bn(
    inputs: int, outputs: int, kernel: int = 3, *, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    """A convolution without bias that keeps the map's size (over `stride`), and its BatchNorm."""
    return [
        nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]


def separable(inputs: int, outputs: int, *, stride: int = 1) -> list[nn.Module]:
    """MobileNet's depthwise-separable 3 × 3 convolution, before its last ReLU.

    Howard et al., MobileNets (arXiv 1704.04861), figure 3.
    """
    return [
        *conv_bn(inputs, inputs, 3, stride=stride, groups=inputs),
        nn.ReLU(),
        *conv_bn(inputs, outputs, 1),
    ]


def layered_stage(
    layers: Sequence[list[nn.Module]], *, before: nn.Module | None = None
) -> nn.Module:
    """Layers with a ReLU between them and none at the end; `before` runs first."""
    modules: list[nn.Module] = [before] if before is not None else []
    for index, layer in enumerate(layers):
        modules += [nn.ReLU(), *layer] if index else layer
    return nn.Sequential(*modules)


def plain_stages(
    layout: Sequence[Sequence[int]],
    *,
    in_channels: int,
    first: ConvLayer,
    layer: ConvLayer,
    floor: int,
) -> list[nn.Module]:
    """VGG's stages: the pooling that VGG draws at a stage's end opens the next one.

    So a stage's output is its full map. `first` builds the network's first layer, `layer` every
    other; from the fifth stage on, maps are pooled only above `floor` pixels a side.
    """
    stages: list[nn.Module] = []
    channels = in_channels
    for index, widths in enumerate(layout):
        layers: list[list[nn.Module]] = []
        for width in widths:
            layers.append(layer(channels, width) if stages or layers else first(channels, width))
            channels = width
        pool = Halve(floor if index >= 4 else 1) if index else None
        stages.append(layered_stage(layers, before=pool))
    return stages


def shuffle_channels(x: Tensor, groups: int) -> Tensor:
    """Interleaves the channels of `groups` groups, so that the next ones mix them.

    Zhang et al., ShuffleNet (arXiv 1707.01083), figure 1. Four dimensions suffice, which small
    runtimes like better than five.
    """
    channels, height, width = x.shape[1:]
    x = x.reshape(-1, groups, channels // groups, height * width)  # (B, G, C/G, HW)
    return x.transpose(1, 2).reshape(-1, channels, height, width)  # (B, C, H, W)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """Cuts the states of tokens into those of heads: (B, N, D) to (B, heads, N, D / heads)."""
    tokens, dim = x.shape[1:]
    return x.reshape(-1, tokens, heads, dim // heads).transpose(1, 2)


def attend(
    heads: Heads, away: Tensor | None = None, dropout: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """The values that each token gathers by its scores, heads side by side: (B, N, D).

    `away` is added to the scores, and `dropout` drops some of the weights. Plain matrix products,
    which every exporter knows, of Vaswani et al., arXiv 1706.03762, equation 1.
    """
    query, key, value = heads
    scores = query @ key.transpose(2, 3) * query.shape[3] ** -0.5  # (B, heads, N, N)
    weights = functional.softmax(scores if away is None else scores + away, dim=3)
    if dropout is not None:
        weights = dropout(weights)
    return (weights @ value).transpose(1, 2).flatten(2)


def initialise(network: Net) -> Net:
    """`network` after He's normal initialisation of its convolutions, from torch's generator.

    Standard deviation sqrt(2 / fan-out) with biases at zero (He et al., arXiv 1502.01852); other
    layers keep torch's own. A grouped convolution's fan-out counts the outputs of one group.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
            nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return network
