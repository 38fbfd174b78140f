"""Exports of networks that read texts: whole numbers in, any batch, weights of 8 bits."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

from ktbench import catalogue
from ktbench.data import Dataset
from ktbench.export import LAYOUTS, Exporter, raw_samples
from ktbench.measure import BoardAccuracy, evaluate, job_of
from ktbench.records import Artifact, Cell, DeviceSpec, ExportSpec, Item
from ktbench.students import Student
from tests.support.optional_tools import OptionalPackage
from tests.support.texts import loaded, text_cell, text_data, write_texts

onnx = OptionalPackage("onnx")

NETWORKS = {
    "embedding_bag": {"width": 0.25},
    "text_cnn": {"width": 0.25},
    "bert_tiny": {"width": 0.25},
}


class Case(NamedTuple):
    """A network with weights far from its start, its cell and its data."""

    student: Student
    cell: Cell
    data: Dataset


@pytest.fixture(scope="module", params=[(name, pair) for name in NETWORKS for pair in (0, 1)])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    name, pair = request.param
    columns: dict[str, Any] = {"text_pair": ["a warm story"] * 400} if pair else {}
    spec = text_data(write_texts(tmp_path_factory.mktemp("texts"), **columns), length=14)
    data = loaded(spec.model_dump_json())
    torch.manual_seed(0)
    student = catalogue.build_student(name, NETWORKS[name], **data.dimensions)
    for parameter in student.parameters():
        nn.init.normal_(parameter, std=0.2)
    cell = text_cell(spec, student=Item(name=name, settings=NETWORKS[name]))
    return Case(student.eval(), cell, data)


@pytest.fixture(scope="module")
def exporter(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exporter]:
    folder = tmp_path_factory.mktemp("artifacts")
    with Exporter(case.data, folder, folder) as exporter:
        yield exporter


def exported(exporter: Exporter, case: Case, **spec: Any) -> Artifact:
    artifact = exporter.export(case.student, case.cell, ExportSpec(**spec))
    assert isinstance(artifact, Artifact), artifact
    return artifact


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "tflite"])
@pytest.mark.parametrize("batch", ["1", "dynamic"])
def test_a_file_gives_torchs_answers(
    exporter: Exporter, case: Case, format: Any, batch: Any
) -> None:
    plain = exported(exporter, case, format=format, batch=batch)
    half = exported(exporter, case, format=format, batch=batch, precision="fp16")
    small = exported(exporter, case, format=format, batch=batch, precision="int8")
    with torch.inference_mode():
        spread = float(case.student(case.data.some("validation", slice(None))).std())
    assert plain.agreement == 1.0 and plain.max_difference < 1e-4 * spread
    assert half.agreement > 0.97 and half.quantisation is None
    assert small.agreement > 0.9 and small.max_difference < 0.5 * spread
    assert (plain.quantisation, small.quantisation) == (None, "dynamic")


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "tflite"])
def test_int8_stores_every_matrix_in_bytes_and_says_that_ranges_are_found_as_inputs_come(
    exporter: Exporter, case: Case, format: Any
) -> None:
    small = exported(exporter, case, format=format, batch="dynamic", precision="int8")
    path = exporter.folder / small.path
    written = json.loads(Path(f"{path}.json").read_text())["provenance"]
    assert written["quantisation"] == "dynamic" and "calibration" not in written
    large = [
        p.numel() for n, p in case.student.named_parameters() if p.dim() > 1 and "pos" not in n
    ]
    others = [p.numel() for n, p in case.student.named_parameters() if p.dim() == 1 or "pos" in n]
    overhead = 4000 + 9 * 512 * len(large)  # the graph itself
    assert small.bytes < sum(large) + 4 * sum(others) + overhead
    assert small.bytes < exported(exporter, case, format=format, batch="dynamic").bytes


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "tflite"])
def test_the_local_board_answers_as_torch_does(exporter: Exporter, case: Case, format: Any) -> None:
    artifact = exported(exporter, case, format=format, batch="dynamic", precision="int8")
    device = DeviceSpec(profile="local", name="here")
    data = case.data
    samples, labels = raw_samples(LAYOUTS[format], data, "test"), data.labels("test").numpy()
    assert {name: part.dtype for name, part in samples.items()} == dict.fromkeys(
        samples, np.dtype(np.int32)
    )
    with torch.inference_mode():
        classes = data.task.predictions(case.student(data.some("test", slice(None)))).numpy()
    [answer] = evaluate(device, [job_of(artifact, exporter.folder)], samples, labels, [classes])
    assert isinstance(answer, BoardAccuracy), answer
    assert answer.agreement > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "tflite"])
def test_students_of_one_architecture_share_a_graph(
    exporter: Exporter, case: Case, format: Any
) -> None:
    """Not so BERTs, whose positions and first segment the converters add up beforehand."""
    exported(exporter, case, format=format, batch="dynamic")
    templates = {spec.format: made for (_, spec), made in exporter._templates.items()}
    if case.cell.student.name != "bert_tiny":
        assert templates[format] is not None
