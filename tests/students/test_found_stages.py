"""Stages of networks that name none are found where the map's size changes."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ktbench.networks.outline import outline
from ktbench.records import Item
from ktbench.students._found_stages import found_stages
from ktbench.students._own import OwnNetwork, wrap
from ktbench.tasks.image_classification import image_signature

SIZES = {"num_classes": 10, "in_channels": 3}


def layer(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 3, stride, 1)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


class Block(nn.Module):
    """Widens its map at the old size first, and gates it: neither ends a stage."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.wide = layer(inputs, 4 * inputs, 1)
        self.narrow = layer(4 * inputs, outputs, stride)
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(outputs, outputs, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.narrow(self.wide(x))
        return x * self.gate(x).sigmoid()


class Net(nn.Module):
    """A stem and two groups of blocks."""

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.stem = layer(in_channels, 4, 2)
        self.blocks = nn.Sequential(
            nn.Sequential(Block(4, 8, 2), Block(8, 8, 1)), nn.Sequential(Block(8, 16, 2))
        )
        self.head = nn.Linear(16, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))  # type: ignore[no-any-return]


class Wrapped(nn.Module):
    """Holds a whole network as its one child."""

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.model = Net(num_classes, in_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)  # type: ignore[no-any-return]


class Encoder(nn.Module):
    """Tokens of patches of one image size; its attention's maps (B, heads, N, D) are no stages."""

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(in_channels, 8, 32, 32)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(8, 2, 16, batch_first=True) for _ in range(6)
        )
        self.head = nn.Linear(8, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2] != 224:
            raise ValueError("224 pixels")
        x = self.patches(x).flatten(2).transpose(1, 2)
        for one in self.layers:
            x = one(x)
        return self.head(x.mean(1))  # type: ignore[no-any-return]


class Plain(nn.Module):
    """Never changes its map's size."""

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        widths = (in_channels, 4, 4, 4, 4, num_classes)
        self.body = nn.Sequential(*(layer(a, b, 1) for a, b in pairwise(widths)))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x).mean((2, 3))  # type: ignore[no-any-return]


class Flat(nn.Module):
    """Shows neither maps nor tokens."""

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.head = nn.LazyLinear(num_classes)
        self.head(torch.zeros(1, in_channels * 64 * 64))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.flatten(1))  # type: ignore[no-any-return]


FOUND = {
    Net: ("stem", "blocks.0", "blocks"),
    Wrapped: ("model.stem", "model.blocks.0", "model.blocks"),
    Encoder: ("layers.0", "layers.2", "layers.3", "layers.5"),
    Plain: ("body.0", "body.1", "body.2", "body.4"),
    Flat: (),
}


@pytest.mark.parametrize("kind", FOUND)
def test_stages_end_where_the_size_changes_or_are_spread_over_equal_layers(kind: Any) -> None:
    torch.manual_seed(0)
    network = kind(**SIZES).train()
    before = torch.get_rng_state()
    found = found_stages(network, SIZES)
    assert torch.equal(torch.get_rng_state(), before) and network.training
    assert found == FOUND[kind]
    assert not any(module._forward_hooks for module in network.modules())


def test_what_timm_says_of_its_stages_is_taken() -> None:
    network = Net(**SIZES)
    network.feature_info = [  # type: ignore[assignment]
        {"module": "blocks.0", "reduction": 4},
        {"module": "blocks.1", "reduction": 8},
    ]
    assert found_stages(network, SIZES) == ("blocks.0", "blocks.1")
    network.feature_info.append({"module": "gone", "reduction": 9})  # type: ignore[operator]
    assert found_stages(network, SIZES) == FOUND[Net]


def test_a_users_network_asks_for_its_stages_by_auto() -> None:
    made = wrap(Net, stages="auto", **SIZES)
    assert isinstance(made, OwnNetwork) and made.stage_names == FOUND[Net]
    assert wrap(Net, **SIZES).stage_names == ()
    seen = outline(
        Item(name=f"{__file__}:Net", settings={"stages": "auto"}),
        image_signature(10, (3, 32, 32)),
        ".",
    )
    assert seen.shapes.stages == ((4, 16, 16), (8, 8, 8), (16, 4, 4))
