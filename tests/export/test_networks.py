"""What users' networks are made of is exported, or refused in one line that names the operator."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from ktbench.export import Exporter
from ktbench.export.deployed_network import Folding, deploy
from ktbench.export.reasons import clean
from ktbench.export.tflite_writer import TfliteWriter
from ktbench.records import Artifact, Failure, Item
from ktbench.records import ExportSpec as Spec
from ktbench.students._own import wrap
from ktbench.tasks._contract import InputSpec
from tests.support.training import cell, digits


class Call(nn.Module):
    """A function as a module."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


class Gate(nn.Module):
    """Squeeze and excite."""

    def __init__(self, width: int, activation: Any) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(width, 4, 1), nn.Conv2d(4, width, 1)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        inner = functional.relu(self.down(functional.adaptive_avg_pool2d(x, 1)))
        return x * self.activation(self.up(inner))


class Shuffle(nn.Module):
    """Two halves, one of them convolved, their channels mixed."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width // 2, width // 2, 3, padding=1, groups=width // 2)

    def forward(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, 1)
        batch, channels, height, width = x.shape
        both = torch.cat([left, self.conv(right)], 1).view(batch, 2, channels // 2, height, width)
        return both.transpose(1, 2).reshape(batch, channels, height, width)


class Net(nn.Module):
    def __init__(self, *parts: nn.Module, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.middle = nn.Sequential(*parts)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.middle(self.stem(x)).mean((2, 3)))


def inverted(activation: type[nn.Module], gate: Any) -> list[nn.Module]:
    """The block of MobileNetV3 and EfficientNet."""
    convolved = [nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8), activation()]
    deep = [nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8), activation()]
    return [*convolved, *deep, Gate(8, gate), nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)]


ACTIVATIONS = (nn.Hardswish, nn.Hardsigmoid, nn.SiLU, nn.GELU, nn.Mish, nn.PReLU, nn.ELU)
NETWORKS: dict[str, Any] = {
    "MobileNetV3": lambda: Net(*inverted(nn.Hardswish, functional.hardsigmoid)),
    "EfficientNet": lambda: Net(*inverted(nn.SiLU, torch.sigmoid)),
    "ShuffleNet": lambda: Net(Shuffle(8), nn.ChannelShuffle(2)),
    "activations": lambda: Net(
        *(part for kind in ACTIVATIONS for part in (nn.Conv2d(8, 8, 1), kind()))
    ),
    "norms": lambda: Net(
        nn.GroupNorm(2, 8), nn.Conv2d(8, 8, 1), nn.LayerNorm([8, 8, 8]), nn.Conv2d(8, 8, 1)
    ),
    "pools": lambda: Net(
        nn.AdaptiveAvgPool2d(4), nn.Conv2d(8, 8, 1), nn.AdaptiveMaxPool2d(2), nn.Conv2d(8, 8, 1)
    ),
    "sizes": lambda: Net(
        nn.Upsample(scale_factor=2), nn.Conv2d(8, 8, 1), nn.PixelShuffle(2), nn.Conv2d(2, 8, 1)
    ),
}
DEAD = "a gate that is never open"


def dead() -> Net:
    """Its gate's inner layer gives zeros for any image, as relu's in a trained gate may."""
    network = Net(*inverted(nn.Hardswish, functional.hardsigmoid))
    gate = network.middle[6]
    with torch.no_grad():
        gate.down.bias.fill_(-100.0)  # type: ignore[union-attr, operator]
    return network


NETWORKS[DEAD] = dead


@pytest.fixture(scope="module")
def exporter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exporter]:
    """One for all, as its process takes seconds to start."""
    folder = tmp_path_factory.mktemp("exported")
    with Exporter(digits(), folder, folder) as made:
        yield made


def export(exporter: Exporter, network: nn.Module, name: str, **spec: Any) -> Artifact | Failure:
    student = wrap(lambda: network, num_classes=10, in_channels=1)
    asked = cell("none", student=Item(name=f"nets:{name}"))
    return exporter.export(student.eval(), asked, Spec(**spec))


def made(name: str) -> nn.Module:
    torch.manual_seed(0)
    network: nn.Module = NETWORKS[name]()
    network.train()
    with torch.no_grad():  # so that running statistics are those of data
        for _ in range(5):
            network(digits().inputs(digits().raw("train")[:64]))
    return network


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_the_parts_of_small_networks_are_exported_in_onnx(exporter: Exporter, name: str) -> None:
    for precision in ("fp32", "int8"):
        done = export(exporter, made(name), name, format="onnx", precision=precision)
        assert isinstance(done, Artifact), done


@pytest.mark.slow
@pytest.mark.parametrize("name", ["MobileNetV3", "pools", DEAD])
def test_and_in_tflite_for_any_batch(exporter: Exporter, name: str) -> None:
    network = made(name)
    for precision in ("fp32", "int8"):
        spec = {"format": "tflite", "precision": precision, "batch": "dynamic"}
        done = export(exporter, network, name, **spec)
        assert isinstance(done, Artifact), done


REFUSED: dict[str, tuple[Any, str]] = {
    "an operator": (torch.special.bessel_j0, "has no operator for "),
    "a decision": (
        lambda x: x * 2 if x.sum() > 0 else x,
        r"forward decides by the values that it computes \(test_networks.py:\d+\)",
    ),
    "an array": (lambda x: x * float(x.detach().numpy().max()), "leave this format out of exports"),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "opset"), [*((kind, 18) for kind in REFUSED), ("an operator", 13)]
)
def test_what_cannot_be_exported_is_one_line_that_says_what_and_what_to_do(
    exporter: Exporter, kind: str, opset: int, capfd: pytest.CaptureFixture[str]
) -> None:
    function, reason = REFUSED[kind]
    done = export(exporter, Net(Call(function)), kind, format="onnx", opset=opset)
    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("", "")
    assert isinstance(done, Failure)
    assert re.search(reason, done.reason), done.reason
    assert done.reason == clean(done.reason) and len(done.reason) < 320
    assert "step 1/3" not in done.reason and "step 3/3" not in done.reason


@pytest.mark.slow
def test_an_operator_that_tflite_lacks_is_named(exporter: Exporter) -> None:
    done = export(exporter, Net(Call(torch.special.bessel_j0)), "bessel", format="tflite")
    assert isinstance(done, Failure)
    assert done.reason == (
        "tflite has no operator for aten.special_bessel_j0.default: write the network without it, "
        "or leave this format out of exports"
    )


def test_codes_that_colour_a_terminal_are_taken_out() -> None:
    assert clean("\x1b[96mstep\x1b[0m 1\n\tof \x1b[1;31m3\x1b[m\x07") == "step 1 of 3"


@pytest.mark.slow
def test_a_process_that_ends_by_a_signal_costs_that_export_alone(
    exporter: Exporter, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from ktbench.export import tflite_writer

    program = tmp_path / "worker.py"
    own = tflite_writer.PROGRAM.read_text()
    program.write_text(own.replace("    main()\n", "    import os\n    os.abort()\n"))
    with Exporter(exporter.dataset, tmp_path, tmp_path) as fresh:
        monkeypatch.setattr(tflite_writer, "PROGRAM", program)
        done = export(fresh, made("ShuffleNet"), "shuffle", format="tflite")
        assert isinstance(done, Failure)
        assert done.reason.startswith("the LiteRT process was ended by SIGABRT")
        monkeypatch.undo()
        assert isinstance(export(fresh, made("ShuffleNet"), "shuffle", format="tflite"), Artifact)


@pytest.mark.slow
def test_strided_constants_of_one_shape_stay_apart_in_tflite() -> None:
    """LiteRT's converter takes two for one where its copies lay in one place."""
    torch.manual_seed(0)
    parts = [nn.Conv2d(8, 8, 3, padding=1) for _ in range(6)]
    network = nn.Sequential(*parts, nn.Flatten()).to(memory_format=torch.channels_last).eval()
    spec = (InputSpec("map", (8, 4, 4)),)
    deployed = deploy(network, Folding(), spec, None, "NHWC")
    writer = TfliteWriter()
    samples = torch.randn(3, 4, 4, 8)
    try:
        model = writer.convert(deployed, Spec(format="tflite"))
        made = writer.run(model, {"map": samples.numpy()})
    finally:
        writer.close()
    with torch.no_grad():
        expected = network(samples.permute(0, 3, 1, 2)).numpy()
    np.testing.assert_allclose(made, expected, atol=1e-5)
