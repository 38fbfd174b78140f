"""A network of many small layers is a small and quick file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from ktbench import catalogue
from ktbench.export import Exporter, onnx_writer, tflite_writer
from ktbench.records import Artifact, ExportSpec, Item
from ktbench.students._contract import Student
from ktbench.students._own import wrap
from tests.support.training import cell, digits

DENSE, SEPARABLE = "resnet14", {"of": "t", "network": "resnet14"}
FORMATS = ("onnx", "tflite")


@pytest.fixture(scope="module")
def exporter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exporter]:
    """One for all, as its process takes seconds to start."""
    folder = tmp_path_factory.mktemp("exported")
    with Exporter(digits(), folder, folder) as made:
        yield made


def student(name: str, settings: dict[str, Any] | None = None) -> Student:
    torch.manual_seed(0)
    network = catalogue.build_student(name, settings or {}, num_classes=10, in_channels=1)
    return warmed(network)  # type: ignore[return-value]


def warmed(network: nn.Module) -> nn.Module:
    """The network with running statistics of data."""
    network.train()
    with torch.no_grad():
        for _ in range(10):
            network(digits().inputs(digits().raw("train")[:64]))
    return network.eval()


def written(exporter: Exporter, network: nn.Module, name: str, **spec: Any) -> bytes:
    asked = cell("none", student=Item(name=name))
    done = exporter.export(network, asked, ExportSpec(**spec))  # type: ignore[arg-type]
    assert isinstance(done, Artifact), done
    return (exporter.relative_to / done.path).read_bytes()


def answers(exporter: Exporter, format: Any, model: bytes) -> np.ndarray:
    raw = digits().raw("test")
    raw = raw if format == "onnx" else raw.permute(0, 2, 3, 1)
    return exporter._writer(format).run(model, {"image": raw.contiguous().numpy()})


def graph_of(model: bytes) -> Any:
    from ai_edge_litert.tools import flatbuffer_utils

    return flatbuffer_utils.read_model_from_bytearray(bytearray(model))


def operators(model: bytes) -> list[str]:
    from ai_edge_litert import schema_py_generated as schema

    names = {code: name for name, code in vars(schema.BuiltinOperator).items()}
    graph = graph_of(model)
    codes = [graph.operatorCodes[o.opcodeIndex].builtinCode for o in graph.subgraphs[0].operators]
    return [names[code] for code in codes]


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
def test_an_int8_file_with_a_third_of_the_weights_is_little_more_than_half_as_large(
    exporter: Exporter, format: str
) -> None:
    dense, separable = student(DENSE), student("blockwise", SEPARABLE)
    spec = {"format": format, "precision": "int8"}
    larger = written(exporter, dense, "dense", **spec)
    smaller = written(exporter, separable, "separable", **spec)
    weights = [sum(p.numel() for p in network.parameters()) for network in (dense, separable)]
    assert weights[1] < weights[0] / 3
    assert len(smaller) < 0.6 * len(larger)


@pytest.mark.slow
def test_numbered_tensors_and_shared_zero_points_change_no_answer_of_a_tflite_file(
    exporter: Exporter, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    network, spec = student("blockwise", SEPARABLE), {"format": "tflite", "precision": "int8"}
    own = tflite_writer.PROGRAM.read_text()
    program = tmp_path / "worker.py"
    program.write_text(own.replace("return compact(", "return bytes("))
    monkeypatch.setattr(tflite_writer, "PROGRAM", program)
    with Exporter(exporter.dataset, tmp_path, tmp_path) as plain:
        larger = written(plain, network, "plain", **spec)
    monkeypatch.undo()
    smaller = written(exporter, network, "compact", **spec)
    assert len(smaller) < len(larger) / 2
    found, expected = (answers(exporter, "tflite", model) for model in (smaller, larger))
    assert np.array_equal(found, expected)
    names = [tensor.name for tensor in graph_of(smaller).subgraphs[0].tensors]
    assert len(set(names)) == len(names)


@pytest.mark.slow
def test_numbered_values_and_shared_constants_change_no_answer_of_an_onnx_file(
    exporter: Exporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, spec = student("blockwise", SEPARABLE), {"format": "onnx", "precision": "int8"}
    smaller = written(exporter, network, "compact", **spec)
    monkeypatch.setattr(onnx_writer, "_compact", lambda model: None)
    larger = written(exporter, network, "plain", **spec)
    assert len(smaller) < 0.7 * len(larger)
    found, expected = (answers(exporter, "onnx", model) for model in (smaller, larger))
    assert np.array_equal(found, expected)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_every_constant_of_a_tflite_file_lies_where_its_format_wants_it(
    exporter: Exporter, precision: str
) -> None:
    from ai_edge_litert import schema_py_generated as schema

    model = written(exporter, student("resnet8"), "net", format="tflite", precision=precision)
    start = np.frombuffer(model, np.uint8).__array_interface__["data"][0]
    graph = schema.Model.GetRootAs(model, 0)
    buffers = [graph.Buffers(number) for number in range(graph.BuffersLength())]
    constants = [buffer.DataAsNumpy() for buffer in buffers if buffer.DataLength()]
    assert constants
    assert {(c.__array_interface__["data"][0] - start) % 16 for c in constants} == {0}


class Joined(nn.Module):
    """A ReLU that no operator before it can take over: of a concatenation, and of another ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(1, 8, 1)
        self.three, self.head = nn.Conv2d(16, 16, 1), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        joined = functional.relu(torch.cat([self.one(x), self.two(x)], 1))
        twice = functional.relu(functional.relu(self.three(joined)))
        return self.head(twice.mean((2, 3)))


@pytest.mark.slow
def test_a_relu_of_its_own_is_no_operator_that_xnnpack_leaves_out(exporter: Exporter) -> None:
    torch.manual_seed(0)
    network = wrap(Joined, num_classes=10, in_channels=1).eval()
    plain = written(exporter, network, "joined", format="tflite")
    lowered = written(exporter, network, "joined", format="tflite", precision="int8")
    assert operators(plain).count("RELU") == 2 and "RELU" not in operators(lowered)
    expected = answers(exporter, "tflite", plain)
    difference = np.abs(answers(exporter, "tflite", lowered) - expected).max()
    assert difference < 0.1 * expected.std()
