"""Networks with blocks replaced: every replacement in every kind of network, and what goes back."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ktbench import catalogue
from ktbench.records import KtbenchError
from ktbench.students._blocks import Geometry, Replacing, adopt, build_replacement, find_blocks
from ktbench.students._contract import Student

NETWORKS: dict[str, Any] = {
    "vgg8": {"vgg8": {"width": 0.25}},
    "resnet8": {"resnet8": {"width": 0.5}},
    "wrn_16_1": {"wrn_16_1": {"width": 0.5}},
    "mobilenet_v1": {"mobilenet_v1": {"width": 0.125}},
    "mobilenet_v2": {"mobilenet_v2": {"width": 0.25}},
}
"""A small network of each family that has blocks."""
OWN = """
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes, in_channels):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(in_channels, 16, 3, padding=1), nn.ReLU())
        self.second = nn.Conv2d(16, 32, 3, stride=2, padding=1)
        self.head = nn.Linear(32, num_classes)

    def forward(self, x):
        return self.head(self.second(self.first(x)).relu().mean((2, 3)))
"""


def build(network: Any, base: str = ".", **settings: Any) -> Replacing:
    torch.manual_seed(0)
    found = catalogue.build_student(
        "blockwise", {"network": network, **settings}, num_classes=10, in_channels=1, base=base
    )
    assert isinstance(found, Replacing)
    return found


def images(count: int = 4) -> Tensor:
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def inner(network: Any) -> Student:
    torch.manual_seed(0)
    name, settings = catalogue.named(network)
    return catalogue.build_student(name, settings, num_classes=10, in_channels=1)


@pytest.mark.slow
@pytest.mark.parametrize("blocks", ["convolutions", "stages"])
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("replacement", sorted(catalogue.replacements()))
def test_every_replacement_fits_every_block_and_learns(
    replacement: str, network: str, blocks: str
) -> None:
    settings = NETWORKS[network]
    count = len(build(settings, blocks=blocks).blocks)
    student = build(settings, blocks=blocks, choice=(replacement,) * count).train()
    own = inner(settings)
    assert student.structure == "1" * count
    seen, before = (n.forward_features(images()) for n in (student, own))
    assert [s.shape for s in seen.stages] == [s.shape for s in before.stages]
    seen.logits.square().sum().backward()  # type: ignore[no-untyped-call]
    for name, module in student.replacements.items():
        missing = [k for k, p in module.named_parameters() if p.grad is None]
        assert missing == [], name


def test_only_blocks_that_get_smaller_are_replaced_where_all_are_asked_for() -> None:
    student = build(NETWORKS["resnet8"], replace="separable")
    sizes = {
        block.name: sum(p.numel() for p in student.replacements[block.name].parameters())
        for block in student.blocks
        if block.name in student.replacements
    }
    network = inner(NETWORKS["resnet8"])
    own = {
        block.name: sum(p.numel() for p in block.modules(network).parameters())
        for block in student.blocks
    }
    assert 0 < len(sizes) < len(own)  # the stem is small already
    assert all(size < own[name] for name, size in sizes.items())


def test_a_network_takes_back_the_very_blocks_that_weights_keep() -> None:
    """What is not replaced computes bit for bit as the network that it comes from."""
    network = inner(NETWORKS["vgg8"])
    student = build(NETWORKS["vgg8"])
    state = {f"network.{k}": v for k, v in network.state_dict().items()}
    state["chosen"] = torch.zeros(len(student.blocks), dtype=torch.int64)
    student.suit(state)
    assert student.structure == "0" * len(student.blocks)
    student.load_state_dict(state)
    with torch.no_grad():
        assert torch.equal(student.eval()(images()), network.eval()(images()))
    assert list(student.state_dict()) == ["chosen", *(f"network.{k}" for k in network.state_dict())]


def test_a_network_built_anew_computes_what_the_weights_of_any_choice_say() -> None:
    one = build(NETWORKS["vgg8"])
    mask = torch.tensor([1, 0, 1, 0, 0], dtype=torch.int64)
    mask[[b.name not in one.replacements for b in one.blocks]] = 0
    one.suit({"chosen": mask})
    other = build(NETWORKS["vgg8"]).eval()
    assert other.structure != one.structure
    state = copy.deepcopy(one.state_dict())
    other.suit(state)
    other.load_state_dict(state)
    with torch.no_grad():
        assert torch.equal(one.eval()(images()), other(images()))
    assert other.structure == "".join(map(str, mask.tolist()))
    other.suit(build(NETWORKS["vgg8"]).state_dict())  # and back again
    assert "1" in other.structure and other.structure != one.structure


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"replace": "seperable"}, "did you mean separable"),
        ({"replace": {"low_rank": {"rnk": 0.5}}}, "did you mean rank"),
        ({"replace": {"low_rank": {"rank": 0}}}, "must be above 0"),
        ({"choice": ("keep",)}, "choice names 1 replacements for 5 blocks"),
        ({"blocks": ("stages.9",)}, "no module 'stages.9'"),
        ({"blocks": ("head",)}, "head: a block needs a convolution"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(KtbenchError, match=message) as told:
        build(NETWORKS["vgg8"], **settings)
    assert "\n" not in str(told.value)


def test_weights_that_replace_what_has_no_replacement_are_refused() -> None:
    student = build(NETWORKS["vgg8"], choice=("keep",) * 5)
    with pytest.raises(ValueError, match="has no replacement"):
        student.suit({"chosen": torch.ones(5, dtype=torch.int64)})
    with pytest.raises(ValueError, match="do not say which"):
        student.suit({})
    assert student.structure == "00000"


def test_a_users_own_network_is_replaced_by_names_and_shows_its_stages(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(OWN)
    network = {"nets.py:Net": {"stages": ["first", "second"]}}
    student = build(network, str(tmp_path), blocks=("second",), replace="single_separable").eval()
    assert student.structure == "1"
    features = student.forward_features(images())
    assert [s.shape[1] for s in features.stages] == [16, 32]
    with torch.no_grad():
        replaced = student.replacements["network.second"](features.stages[0])
    assert torch.equal(features.stages[1], replaced)


def test_a_low_rank_replacement_of_full_rank_begins_as_the_convolution_that_it_stands_for() -> None:
    network = inner(NETWORKS["vgg8"])
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -1, 1)
    block = find_blocks(network, "convolutions")[2]
    inputs = torch.randn(2, block.geometry.inputs, 8, 8)
    errors = []
    with torch.no_grad():
        expected = block.modules(network.eval())(inputs)
        for rank in (0.25, 0.5, 1.0):
            entry = {"low_rank": {"rank": rank}}
            torch.manual_seed(0)
            module = build_replacement(block, entry)
            adopt(block, entry, module, network)
            errors.append(float((module.eval()(inputs) - expected).abs().max()))
    assert errors[0] > errors[1] > 1e-2 > 1e-4 > errors[2]


def test_low_rank_is_the_best_approximation_of_its_rank() -> None:
    """Eckart and Young: the error is what the singular values left out come to."""
    from ktbench.students.replacements import low_rank

    own = nn.Conv2d(8, 12, 3, padding=1)
    module = low_rank.build(Geometry(8, 12, 1), rank=0.5)
    low_rank.adopt(module, nn.Sequential(own))
    assert isinstance(module, nn.Sequential)
    weights = dict(module.named_parameters())
    product = torch.einsum("or,rihw->oihw", weights["1.weight"][:, :, 0, 0], weights["0.weight"])
    left_out = torch.linalg.svdvals(own.weight.flatten(1))[6:]
    torch.testing.assert_close((product - own.weight).norm(), left_out.norm())
    assert own.bias is not None
    assert torch.equal(weights["2.bias"], own.bias)
