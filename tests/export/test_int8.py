"""Int8 files: their form, their ranges, what is corrected and kept, and what is said of them."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from ktbench.data import Dataset
from ktbench.devices.agent.runtimes import Options, onnxruntime_, tflite_
from ktbench.export import Exporter
from ktbench.export.corrections import correct_biases, equalise, plan_chains, rounded
from ktbench.export.deployed_network import Deployed
from ktbench.export.int8 import remarks
from ktbench.export.ranges import BINS, Histogram, chosen_range, squared_error
from ktbench.export.writer import ExportError, Lowering
from ktbench.records import Artifact, Cell, DataSpec, ExportSpec, Failure, Item, Layers, TrainSpec
from ktbench.students._contract import StagedNetwork
from ktbench.tasks.image_classification import image_signature
from tests.export.test_export import images

SPEC = DataSpec(source="digits")
FORMATS = ("onnx", "tflite")


class Block(nn.Module):
    """A residual block with a depthwise layer whose channels differ a hundredfold in range."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
        self.deep = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        with torch.no_grad():
            self.deep.weight.mul_(torch.logspace(-1, 1, 8).view(-1, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.narrow(torch.relu(self.deep(torch.relu(self.wide(x)))))


def uneven() -> StagedNetwork:
    torch.manual_seed(0)
    network = StagedNetwork(
        stem=nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU()),
        stages=[Block()],
        embed=nn.Sequential(nn.AvgPool2d(8), nn.Flatten()),
        head=nn.Linear(8, 4),
    )
    return network.eval()


class Chained(nn.Module):
    """Three convolutions, each of which alone reads the one before."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.three, self.cut = nn.Conv2d(8, 6, 1, groups=2), nn.Conv2d(6, 4, 1)
        with torch.no_grad():
            self.two.weight.mul_(torch.logspace(-2, 2, 8).view(-1, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.three(torch.relu(self.two(torch.relu(self.one(x)))))
        return self.cut(torch.clamp(x, 0, 6)).mean((2, 3))


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    splits = {"train": images(64, 0), "validation": images(64, 1), "test": images(32, 2)}
    return Dataset(SPEC, ("nw", "ne", "sw", "se"), splits)


@pytest.fixture(scope="module")
def exporter(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exporter]:
    folder = tmp_path_factory.mktemp("results")
    with Exporter(dataset, folder, folder) as made:
        yield made


def export(exporter: Exporter, **settings: Any) -> Artifact | Failure:
    cell = Cell(
        data=SPEC,
        student=Item(name="net"),
        method=Item(name="none"),
        seed=0,
        train=TrainSpec(epochs=1),
    )
    return exporter.export(uneven(), cell, ExportSpec(precision="int8", **settings))


def exported(exporter: Exporter, **settings: Any) -> Artifact:
    done = export(exporter, **settings)
    assert isinstance(done, Artifact), done.reason
    return done


def ran(exporter: Exporter, artifact: Artifact) -> tuple[int, int] | None:
    runtime = onnxruntime_ if artifact.export.format == "onnx" else tflite_
    path = str(Path(exporter.relative_to, artifact.path))
    return runtime.load(path, Options(1, "cpu", None, None)).kernels()


@pytest.mark.slow
def test_unsigned_activations_are_integers_where_signed_ones_are_not(exporter: Exporter) -> None:
    """A map that two operators read is what ONNX Runtime on x86 computes in float if signed."""
    signed = exported(exporter, format="onnx")
    unsigned = exported(exporter, format="onnx", activations="unsigned")
    assert signed.layers == unsigned.layers == Layers(quantised=5, all=5)
    assert ran(exporter, unsigned) == (5, 5)
    assert ran(exporter, signed) in [(n, 5) for n in range(5)], "or say so in docs/export.md"
    assert signed.graph_key != unsigned.graph_key and signed.path != unsigned.path
    assert unsigned.agreement >= signed.agreement - 0.05


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
def test_kept_layers_and_no_others_stay_in_float(exporter: Exporter, format: Any) -> None:
    kept = exported(exporter, format=format, keep=("stem", "stages.0.deep"))
    assert kept.layers == Layers(quantised=3, all=5)
    counted = ran(exporter, kept)
    assert counted is not None and counted[1] == 5 and counted[0] <= 3
    wrong = export(exporter, format=format, keep=("nothing",))
    assert (
        isinstance(wrong, Failure) and "'nothing' is no layer: there are stem.0, " in wrong.reason
    )


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
def test_other_ranges_are_narrower_and_the_network_stays_the_same(
    exporter: Exporter, format: Any
) -> None:
    files = {
        name: exported(exporter, format=format, calibration=name)
        for name in ("minmax", "percentile", "mse")
    }
    assert len({artifact.digest for artifact in files.values()}) == 3
    assert min(artifact.agreement for artifact in files.values()) > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
def test_sensitivity_names_the_layers_and_leaves_the_file_alone(
    exporter: Exporter, format: Any
) -> None:
    plain = exported(exporter, format=format)
    asked = exported(exporter, format=format, sensitivity=True, keep=("head",))
    layers = [loss.layer for loss in asked.sensitivity]
    assert layers == ["stem.0", "stages.0.wide", "stages.0.deep", "stages.0.narrow"]
    assert plain.sensitivity == () and all(loss.agreement > 0.8 for loss in asked.sensitivity)
    same = exported(exporter, format=format, sensitivity=True)
    assert (same.digest, same.graph_key) == (plain.digest, plain.graph_key)


def test_an_int8_file_is_remarked_on_where_it_is_not_what_one_expects() -> None:
    whole, how = Layers(quantised=4, all=4), Lowering()
    assert list(remarks(whole, how, 100, 200)) == []
    assert "larger than in fp16" in next(remarks(whole, how, 201, 200))
    assert "none of its 4" in next(remarks(Layers(quantised=0, all=4), how, 1, 2))
    assert "1 of its 4" in next(remarks(Layers(quantised=3, all=4), how, 1, 2))
    assert list(remarks(Layers(quantised=3, all=4), Lowering(keep=(0,)), 1, 2)) == []


# ---------------------------------------------------------------- ranges


def histogram(values: np.ndarray) -> Histogram:
    low, high = float(values.min()), float(values.max())
    return Histogram(low, high, np.histogram(values, BINS, (low, high))[0])


def test_a_percentile_leaves_rare_values_out_and_minmax_leaves_none() -> None:
    values = np.concatenate([np.linspace(0, 1, 100_000), [50.0]])
    assert chosen_range(histogram(values), "minmax") == (0.0, 50.0)
    low, high = chosen_range(histogram(values), "percentile")
    assert low == 0.0 and 1.0 <= high < 1.1


def test_the_range_of_least_error_has_less_error_than_any_other_that_is_tried() -> None:
    values = np.random.default_rng(0).laplace(size=100_000)
    told = histogram(values)
    chosen = chosen_range(told, "mse")
    assert chosen[1] - chosen[0] < 0.9 * (told.high - told.low)
    least = squared_error(told, *chosen)
    for shrink in (0.3, 0.5, 0.8, 1.0):
        assert least <= squared_error(told, shrink * told.low, shrink * told.high)
    step = (chosen[1] - chosen[0]) / 255
    rounded_values = np.clip(np.round((values - chosen[0]) / step), 0, 255) * step + chosen[0]
    assert least == pytest.approx(float(((rounded_values - values) ** 2).mean()), rel=0.1)


# ---------------------------------------------------------------- corrected weights


@pytest.mark.slow
def test_equalised_channels_give_the_same_outputs_from_even_ranges() -> None:
    network = Chained().eval()
    signature = image_signature(4, (3, 8, 8))
    chains = plan_chains(network, signature.inputs)
    assert chains == (("one", "two"), ("two", "three")), "what a cut-off ReLU ends is no chain"
    even = copy.deepcopy(network)
    equalise(even, chains)
    x = torch.randn(4, 3, 8, 8)
    assert torch.allclose(network(x), even(x), rtol=1e-4, atol=1e-5)

    def spread(module: nn.Conv2d) -> float:
        ranges = module.weight.detach().abs().amax((1, 2, 3))
        return float(ranges.max() / ranges.min())

    assert spread(even.two) < spread(network.two) / 50


def test_a_corrected_bias_takes_away_the_mean_error_of_rounded_weights() -> None:
    torch.manual_seed(0)
    network, signature = Chained().eval(), image_signature(4, (3, 8, 8))
    x = torch.rand(64, 3, 8, 8) * 255
    deployed = Deployed(network, signature.inputs, None, None, "NCHW").eval()
    deployed.requires_grad_(False)

    def error(corrected: nn.Conv2d, plain: nn.Conv2d) -> float:
        """The mean error of the first layer's outputs, of the channel that has most."""
        coarse = copy.deepcopy(plain)
        coarse.weight.copy_(rounded(plain.weight, 7))
        coarse.bias.copy_(corrected.bias)
        return float((coarse(x) - plain(x)).mean((0, 2, 3)).abs().max())

    plain = copy.deepcopy(network)
    before = error(network.one, plain.one)
    correct_biases(deployed, {"image": x.numpy()}, 7)
    assert error(network.one, plain.one) < before / 100


def test_a_name_that_is_no_layer_is_refused_with_those_that_are() -> None:
    from ktbench.export.int8 import kept_layers

    names = ["stem", "stages.0.conv", "stages.1.conv", "fc"]
    assert kept_layers(names, ["stages", "head"]) == (1, 2, 3)
    with pytest.raises(ExportError, match="there are stem, stages"):
        kept_layers(names, ["stage"])


@pytest.mark.slow
def test_onnx_weights_of_seven_bits_are_none_beyond_64(exporter: Exporter) -> None:
    done = exported(exporter, format="onnx", activations="unsigned", reduce_range=True)
    model = onnx.load(Path(exporter.relative_to, done.path))
    weights = [
        onnx.numpy_helper.to_array(tensor)
        for tensor in model.graph.initializer
        if tensor.data_type == onnx.TensorProto.INT8 and len(tensor.dims) > 1
    ]
    assert weights and max(int(np.abs(w.astype(int)).max()) for w in weights) == 64
