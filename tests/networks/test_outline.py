"""A network's outline is what the real network shows, had without drawing its weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ktbench import catalogue
from ktbench.networks.outline import forward_flops, outline
from ktbench.records import Item, KtbenchError
from ktbench.tasks.image_classification import image_signature

SHAPE = (3, 32, 32)


@pytest.mark.parametrize("name", ["resnet8", "vgg_thin_shallow", "wrn_16_1", "vit_tiny"])
def test_an_outline_is_that_of_the_real_network(name: str) -> None:
    found = outline(Item(name=name), image_signature(7, SHAPE), ".")
    real = catalogue.build_student(name, {}, num_classes=7, in_channels=3).eval()
    with torch.no_grad():
        features = real.forward_features(torch.zeros(2, *SHAPE))
    assert found.parameters == sum(p.numel() for p in real.parameters())
    assert found.shapes.stages == tuple(tuple(s.shape[1:]) for s in features.stages)
    assert found.shapes.names == real.stage_names
    assert found.shapes.logits == 7
    assert features.embedding is not None
    assert found.shapes.embedding == features.embedding.shape[1]


def test_flops_of_a_linear_network_are_two_per_weight(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(
        "from torch import nn\n"
        "def net(num_classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, num_classes))\n"
    )
    assert (
        forward_flops(Item(name="nets.py:net"), image_signature(7, SHAPE), str(tmp_path))
        == 2 * 3072 * 7
    )


def test_a_network_with_other_logits_than_classes_is_told(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(
        "from torch import nn\n"
        "def net():\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 4))\n"
    )
    with pytest.raises(
        KtbenchError, match=r"^nets.py:net cannot take images of 3×32×32: .*4 logits for 7 classes"
    ):
        outline(Item(name="nets.py:net"), image_signature(7, SHAPE), str(tmp_path))
