"""Export: the file that ships is the network that was trained, and says so."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from ktbench import catalogue
from ktbench.data import Dataset
from ktbench.export import Exporter, graph_key, onnx_writer
from ktbench.export import exporter as exporter_module
from ktbench.export.parity import TOLERANCES, Parity
from ktbench.export.template import Slot, match
from ktbench.records import (
    Artifact,
    Cell,
    DataSpec,
    ExportSpec,
    Failure,
    Item,
    KtbenchError,
    TrainSpec,
)
from ktbench.students._contract import StagedNetwork
from ktbench.students._own import wrap
from ktbench.tasks.image_classification import image_signature

SPEC = DataSpec(source="digits")
FORMATS, PRECISIONS = ("onnx", "tflite"), ("fp32", "fp16", "int8")


class Down(nn.Module):
    """Halves a map, then convolves."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(functional.max_pool2d(x, 2)))


class Residual(nn.Module):
    """Reads a convolution before and after its normalisation, and normalises its own input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.before = nn.BatchNorm2d(channels)
        self.one = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels)
        self.two = nn.Conv2d(channels, channels, 1, bias=False)
        self.last = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        raw = self.one(functional.relu(self.before(x)))
        return raw + self.last(self.two(functional.relu(self.norm(raw))))


def images(count: int, seed: int, channels: int = 3) -> tuple[Tensor, Tensor]:
    """Images whose class is the brightest of four corners."""
    generator = torch.Generator().manual_seed(seed)
    raw = torch.randint(0, 160, (count, channels, 8, 8), generator=generator)
    labels = torch.randint(0, 4, (count,), generator=generator)
    for row, (y, x) in enumerate([(0, 0), (0, 4), (4, 0), (4, 4)]):
        raw[labels == row, :, y : y + 4, x : x + 4] += 60
    return raw.to(torch.uint8), labels


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    splits = {"train": images(320, 0), "validation": images(96, 1), "test": images(64, 2)}
    return Dataset(SPEC, ("nw", "ne", "sw", "se"), splits)


def train(network: nn.Module, dataset: Dataset, steps: int = 60) -> nn.Module:
    optimiser = torch.optim.SGD(network.parameters(), 0.05, momentum=0.9)
    inputs, labels = dataset.inputs(dataset.raw("train")), dataset.labels("train")
    network.train()
    for step in range(steps):
        part = torch.arange(32) + 32 * step
        part %= len(labels)
        optimiser.zero_grad()
        functional.cross_entropy(network(inputs[part]), labels[part]).backward()
        optimiser.step()
    return network.eval()


def small(seed: int, channels: int = 3) -> StagedNetwork:
    torch.manual_seed(seed)
    stem = nn.Sequential(nn.Conv2d(channels, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8))
    return StagedNetwork(
        stem=nn.Sequential(stem, nn.ReLU()),
        stages=[Residual(8), Down(8, 12)],
        embed=nn.Sequential(nn.AvgPool2d(2), nn.Flatten()),
        head=nn.Linear(48, 4),
    )


def cell(seed: int, name: str = "small") -> Cell:
    return Cell(
        data=SPEC,
        student=Item(name=name),
        method=Item(name="none"),
        seed=seed,
        train=TrainSpec(epochs=1),
    )


@pytest.fixture(scope="module")
def trained(dataset: Dataset) -> list[StagedNetwork]:
    return [train(small(seed), dataset) for seed in range(2)]  # type: ignore[misc]


@pytest.fixture(scope="module")
def exporter(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exporter]:
    folder = tmp_path_factory.mktemp("results")
    with Exporter(dataset, folder / "artifacts", folder) as made:
        yield made


def exported(
    exporter: Exporter, student: nn.Module, seed: int, spec: ExportSpec, name: str = "small"
) -> Artifact:
    done = exporter.export(student, cell(seed, name), spec)
    assert isinstance(done, Artifact), done.reason
    return done


def beside(exporter: Exporter, dataset: Dataset, folder: Path) -> Exporter:
    """An exporter of its own that shares the LiteRT process, which takes seconds to start."""
    made = Exporter(dataset, folder, folder)
    made._writers = {format: exporter._writer(format) for format in FORMATS}
    return made


def model_of(exporter: Exporter, artifact: Artifact) -> bytes:
    return (exporter.relative_to / artifact.path).read_bytes()


def logits_of(exporter: Exporter, artifact: Artifact, raw: Tensor) -> np.ndarray:
    writer = exporter._writer(artifact.export.format)
    layout = raw if writer.layout == "NCHW" else raw.permute(0, 2, 3, 1)
    return writer.run(model_of(exporter, artifact), {"image": layout.contiguous().numpy()})


@pytest.mark.slow
@pytest.mark.parametrize("batch", ["1", "dynamic"])
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("format", FORMATS)
def test_an_artifact_gives_torchs_answers_on_raw_images(
    exporter, trained, dataset, format, precision, batch
):
    spec = ExportSpec(format=format, precision=precision, batch=batch)
    artifact = exported(exporter, trained[0], 0, spec)
    with torch.no_grad():
        expected = trained[0](dataset.inputs(dataset.raw("test"))).numpy()
    found = logits_of(exporter, artifact, dataset.raw("test"))
    agreement = (found.argmax(1) == expected.argmax(1)).mean()
    assert agreement >= TOLERANCES[precision].agreement
    assert np.abs(found - expected).mean() < {"fp32": 1e-5, "fp16": 0.02, "int8": 0.2}[precision]
    assert artifact.test_accuracy == (found.argmax(1) == dataset.labels("test").numpy()).mean()


@pytest.mark.parametrize(
    ("precision", "agreement", "difference", "says"),
    [
        ("fp32", 0.99, 0.0, "agrees with torch on"),
        ("fp32", 1.0, 0.002, "standard deviations"),
        ("fp16", 0.96, 0.0, "agrees with torch on"),
        ("fp16", 1.0, 0.2, "standard deviations"),
        ("int8", 0.59, 0.0, "agrees with torch on"),
        ("int8", 1.0, float("inf"), "not finite"),
        ("fp32", 1.0, 0.0005, None),
        ("int8", 0.61, 100.0, None),
    ],
)
def test_what_is_beyond_its_tolerance_is_told_and_nothing_else(
    precision, agreement, difference, says
):
    found = Parity(agreement, difference, difference, 0.5, 0.5).beyond(TOLERANCES[precision])
    assert says in found if says else found is None


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
def test_a_reused_graph_is_the_graph_of_a_full_conversion(exporter, trained, dataset, format):
    spec = ExportSpec(format=format)
    reused = model_of(exporter, exported(exporter, trained[1], 1, spec))
    writer = exporter._writer(format)
    network = exporter._deployed(writer, exporter._prepare(trained[1], cell(1)), spec)
    assert exporter._templates[(exporter._subject.architecture, spec)] is not None
    converted = writer.convert(network, spec)
    layout = (0, 1, 2, 3) if format == "onnx" else (0, 2, 3, 1)
    raw = {"image": dataset.raw("validation").numpy().transpose(layout)}
    assert np.array_equal(writer.run(reused, raw), writer.run(converted, raw))
    assert len(reused) == len(converted)


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
def test_the_bytes_do_not_depend_on_what_was_exported_before(
    exporter, trained, dataset, tmp_path, format
):
    fresh = beside(exporter, dataset, tmp_path)
    for precision in PRECISIONS:
        spec = ExportSpec(format=format, precision=precision)
        exported(exporter, trained[0], 0, spec)
        second = exported(exporter, trained[1], 1, spec)
        assert exported(fresh, trained[1], 1, spec).digest == second.digest


@pytest.mark.slow
def test_tflite_takes_nhwc_and_onnx_takes_nchw_floats_named_image(exporter, trained):
    from ai_edge_litert.interpreter import Interpreter

    tflite = exported(exporter, trained[0], 0, ExportSpec(format="tflite", precision="int8"))
    interpreter = Interpreter(str(exporter.relative_to / tflite.path))
    assert interpreter.get_signature_list() == {
        "serving_default": {"inputs": ["image"], "outputs": ["logits"]}
    }
    source = interpreter.get_input_details()[0]
    assert (*source["shape"],) == (1, 8, 8, 3) and source["dtype"] is np.float32
    assert interpreter.get_output_details()[0]["dtype"] is np.float32
    assert tflite.input_shape == (8, 8, 3)

    written = exported(exporter, trained[0], 0, ExportSpec(format="onnx", precision="int8"))
    session = onnxruntime.InferenceSession(model_of(exporter, written))
    (image,), (logits,) = session.get_inputs(), session.get_outputs()
    assert (image.name, image.shape, image.type) == ("image", [1, 3, 8, 8], "tensor(float)")
    assert (logits.name, logits.shape, logits.type) == ("logits", [1, 4], "tensor(float)")
    assert written.input_shape == (3, 8, 8)


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
def test_a_dynamic_artifact_answers_for_any_batch_alike(exporter, trained, dataset, format):
    artifact = exported(exporter, trained[0], 0, ExportSpec(format=format, batch="dynamic"))
    raw = dataset.raw("test")[:7]
    together = logits_of(exporter, artifact, raw)
    alone = np.concatenate([logits_of(exporter, artifact, image[None]) for image in raw])
    assert together.shape == (7, 4)
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize(("opset", "ir"), [(13, 8), (15, 8), (18, 10)])
def test_the_opset_asked_for_is_written_with_an_ir_its_boards_read(
    exporter, trained, opset, ir, precision
):
    spec = ExportSpec(format="onnx", opset=opset, precision=precision)
    model = onnx.load_from_string(model_of(exporter, exported(exporter, trained[0], 0, spec)))
    onnx.checker.check_model(model, full_check=True)
    assert {o.version for o in model.opset_import if o.domain == ""} == {opset}
    assert model.ir_version <= ir


@pytest.mark.slow
def test_an_onnx_artifact_tells_nothing_of_the_machine_that_wrote_it(exporter, trained):
    for opset in (13, 18):
        artifact = exported(exporter, trained[0], 0, ExportSpec(format="onnx", opset=opset))
        model = onnx.load_from_string(model_of(exporter, artifact))
        del model.graph.initializer[:]
        text = str(model)
        assert ".py" not in text and "doc_string" not in text and "metadata" not in text


@pytest.mark.slow
def test_int8_weights_are_stored_as_one_byte_each(exporter, trained):
    sizes = {
        (format, precision): exported(
            exporter, trained[0], 0, ExportSpec(format=format, precision=precision)
        )
        for format in FORMATS
        for precision in ("fp32", "int8")
    }
    graph = onnx.load_from_string(model_of(exporter, sizes["onnx", "int8"])).graph
    weights = [i for i in graph.initializer if len(i.dims) == 4 and np.prod(i.dims) > 16]
    assert weights and all(i.data_type == onnx.TensorProto.INT8 for i in weights)
    scales = {i.name: i.dims for i in graph.initializer}
    by_channel = [n for n in graph.node if n.op_type == "DequantizeLinear" and scales[n.input[1]]]
    assert len(by_channel) >= len(weights)


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
def test_calibration_sees_training_images_only(exporter, dataset, trained, tmp_path, format):
    poisoned = {
        **dataset.splits,
        "validation": images(96, 8),
        "test": (torch.full((64, 3, 8, 8), 255, dtype=torch.uint8), dataset.labels("test")),
    }
    spec = ExportSpec(format=format, precision="int8")
    other = beside(exporter, replace(dataset, splits=poisoned), tmp_path)
    clean = exported(exporter, trained[0], 0, spec)
    assert exported(other, trained[0], 0, spec).digest == clean.digest
    trainless = {**dataset.splits, "train": images(320, 9)}
    other.dataset = replace(dataset, splits=trainless)
    moved = other.export(trained[0], cell(0), spec)
    assert not isinstance(moved, Artifact) or moved.digest != clean.digest


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
def test_a_file_with_wrong_weights_is_a_failure_and_is_not_written(
    exporter, trained, monkeypatch, format
):
    writer = exporter._writer(format)
    fill = writer.fill

    def corrupting(model, values):
        return fill(model, {name: value + 0.05 for name, value in values.items()})

    monkeypatch.setattr(writer, "fill", corrupting)
    done = exporter.export(trained[0], cell(77), ExportSpec(format=format))
    assert isinstance(done, Failure)
    assert (done.stage, done.what) == ("export", f"{format}-fp32")
    assert "torch" in done.reason and "\n" not in done.reason
    assert not (exporter.folder / cell(77).key).exists()


class Branching(StagedNetwork):
    """Chooses by a value, which no graph can hold."""

    def forward(self, inputs: Tensor) -> Tensor:
        logits = super().forward(inputs)
        return logits if float(logits.sum()) > 0 else -logits


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
def test_a_network_that_cannot_be_converted_is_a_failure_with_one_line(exporter, format):
    plain = small(0)
    student = Branching(stem=plain.stem, stages=plain.stages, embed=plain.embed, head=plain.head)
    done = exporter.export(student.eval(), cell(5, "branching"), ExportSpec(format=format))
    assert isinstance(done, Failure)
    assert done.what == f"{format}-fp32" and done.reason and "\n" not in done.reason


@pytest.mark.slow
def test_a_litert_process_that_dies_is_a_failure_and_the_next_starts_quietly(
    dataset, trained, tmp_path, capfd
):
    with Exporter(dataset, tmp_path, tmp_path) as made:
        litert = made._writer("tflite")._litert
        litert.start()
        litert._process.kill()
        spec = ExportSpec(format="tflite", precision="int8")
        done = made.export(trained[0], cell(0), spec)
        assert isinstance(done, Failure) and "SIGKILL" in done.reason
        exported(made, trained[0], 0, spec)
        for opset in (13, 18):
            exported(made, trained[0], 0, ExportSpec(format="onnx", precision="int8", opset=opset))
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_the_sidecar_says_all_that_a_user_of_the_file_needs(exporter, trained, dataset):
    artifact = exported(exporter, trained[0], 0, ExportSpec(format="tflite", batch="dynamic"))
    path = exporter.relative_to / artifact.path
    about = json.loads(path.with_name(path.name + ".json").read_text())
    assert about["labels"] == ["nw", "ne", "sw", "se"]
    assert about["input"]["layout"] == "NHWC"
    assert about["input"]["shape"] == [None, 8, 8, 3]
    assert about["input"]["range"] == [0, 255] and about["input"]["dtype"] == "float32"
    assert about["output"]["name"] == "logits"
    assert about["sha256_16"] == artifact.digest
    assert about["provenance"]["cell_key"] == artifact.cell_key
    assert about["provenance"]["data_digest"] == dataset.digest
    assert about["provenance"]["versions"]["litert-torch"]
    assert about["integrity"]["agreement"] == artifact.agreement


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_leaves_no_file(exporter, trained, monkeypatch):
    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    exporter.export(trained[0], cell(0), ExportSpec(format="onnx"))
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(KtbenchError, match=r"no space left on the disk") as caught:
        exporter.export(trained[0], cell(88), ExportSpec(format="onnx"))
    assert "\n" not in str(caught.value)
    assert list((exporter.folder / cell(88).key).iterdir()) == []


@pytest.mark.slow
def test_a_disk_too_full_for_temporary_files_is_one_line(exporter, trained, monkeypatch):
    def full(*_arguments, **_settings):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(exporter._writer("onnx"), "lower", full)
    with pytest.raises(KtbenchError, match="TMPDIR"):
        exporter.export(trained[0], cell(89), ExportSpec(format="onnx"))


@pytest.mark.slow
def test_the_graph_key_is_shared_by_weights_and_by_nothing_else(exporter, trained):
    spec = ExportSpec(format="onnx", precision="int8")
    one, two = (exported(exporter, trained[seed], seed, spec) for seed in range(2))
    assert one.graph_key == two.graph_key and one.digest != two.digest
    keys = {
        graph_key(Item(name=name), image_signature(classes, shape), export)
        for name in ("a", "b")
        for classes in (4, 5)
        for shape in ((3, 8, 8), (1, 8, 8))
        for export in (spec, ExportSpec(format="onnx"), ExportSpec(format="tflite"))
    }
    assert len(keys) == 24


def structure(model: onnx.ModelProto) -> list[object]:
    graph = model.graph
    return [[(n.op_type, [*n.input], [*n.output]) for n in graph.node]] + [
        (i.name, i.data_type, [*i.dims]) for i in graph.initializer
    ]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.slow
def test_two_seeds_give_the_same_onnx_graph(exporter, trained, precision):
    spec = ExportSpec(format="onnx", precision=precision)
    found = [model_of(exporter, exported(exporter, trained[s], s, spec)) for s in range(2)]
    one, two = (structure(onnx.load_from_string(model)) for model in found)
    assert one == two


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
def test_two_seeds_give_the_same_tflite_graph(exporter, trained, precision):
    from ai_edge_litert.interpreter import Interpreter

    spec = ExportSpec(format="tflite", precision=precision)
    found = []
    for seed in range(2):
        artifact = exported(exporter, trained[seed], seed, spec)
        interpreter = Interpreter(str(exporter.relative_to / artifact.path))
        found.append(
            [
                (t["name"], (*t["shape"],), t["dtype"], len(t["quantization_parameters"]["scales"]))
                for t in interpreter.get_tensor_details()
            ]
        )
    assert found[0] == found[1]


@pytest.mark.slow
def test_the_exporter_leaves_the_student_as_it_was(exporter, trained):
    before = {name: t.clone() for name, t in trained[0].state_dict().items()}
    exported(exporter, trained[0], 0, ExportSpec(format="onnx"))
    after = trained[0].state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(p.requires_grad for p in trained[0].parameters())


def test_students_that_differ_only_in_weights_share_one_conversion(exporter, trained, monkeypatch):
    spec = ExportSpec(format="onnx")
    exported(exporter, trained[0], 0, spec)

    def never(*_arguments):
        raise AssertionError("converted again")

    monkeypatch.setattr(exporter._writer("onnx"), "convert", never)
    exported(exporter, trained[1], 1, ExportSpec(format="onnx", precision="int8"))


def lenet(num_classes: int, in_channels: int) -> nn.Module:
    """Somebody's own network, that knows nothing of students."""
    return nn.Sequential(
        nn.Conv2d(in_channels, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.Tanh(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(96, num_classes),
    )


REAL = [("vgg8", {"width": 0.125}), ("resnet8", {"width": 0.5}), ("vgg_separable", {"width": 0.1})]


@pytest.mark.slow
@pytest.mark.parametrize("batch", ["1", "dynamic"])
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(("name", "settings"), [*REAL, ("own", {"stages": ["2"]})])
def test_students_of_the_catalogue_and_ones_own_are_exported_from_one_graph(
    exporter, dataset, tmp_path, name, settings, format, batch
):
    torch.manual_seed(0)
    if name == "own":
        student = wrap(lenet, num_classes=4, in_channels=3, **settings)
    else:
        student = catalogue.build_student(name, settings, num_classes=4, in_channels=3)
    train(student, dataset, 4)
    made = beside(exporter, dataset, tmp_path)
    artifact = exported(made, student, 0, ExportSpec(format=format, batch=batch), name)
    assert artifact.max_difference < 1e-3
    assert None not in made._templates.values()


def test_constants_are_matched_by_content_and_axes():
    generator = np.random.default_rng(0)
    weight = generator.random((4, 3, 2, 2), dtype=np.float32)
    bias = generator.random(4, dtype=np.float32)
    constants = {
        "w": np.ascontiguousarray(weight.transpose(0, 2, 3, 1)),
        "b": bias,
        "twice": bias * 2,
    }
    slots, unexplained = match(constants, {"weight": weight, "bias": bias})
    assert slots == (Slot("w", "weight", (0, 2, 3, 1)), Slot("b", "bias", (0,)))
    assert unexplained == ("twice",)


class Derived(StagedNetwork):
    """Computes with a weight's square, which a converter works out beforehand."""

    def forward(self, inputs: Tensor) -> Tensor:
        features = self.embed(self.stages[1](functional.relu(self.stem(inputs))))
        return functional.linear(features, self.head.weight.square(), self.head.bias)


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
def test_an_architecture_with_derived_constants_is_converted_student_by_student(
    exporter, dataset, tmp_path, format
):
    made = beside(exporter, dataset, tmp_path)
    for seed in range(2):
        plain = small(seed)
        student = Derived(stem=plain.stem, stages=plain.stages, embed=plain.embed, head=plain.head)
        train(student, dataset, 20)
        exported(made, student, seed, ExportSpec(format=format), "derived")
    if format == "tflite":  # the other converter keeps the squaring in the graph
        assert list(made._templates.values()) == [None]


@pytest.mark.slow
def test_a_copy_in_another_process_starts_empty(exporter, trained, tmp_path):
    import pickle

    exported(exporter, trained[0], 0, ExportSpec(format="onnx"))
    copied = pickle.loads(pickle.dumps(exporter))
    assert copied._templates == {} and copied._writers == {}
    one = exported(exporter, trained[1], 1, ExportSpec(format="onnx"))
    assert exported(copied, trained[1], 1, ExportSpec(format="onnx")).digest == one.digest


@pytest.mark.slow
def test_calibration_takes_images_from_all_of_the_training_set(exporter, dataset):
    indices = exporter._calibration()
    assert len(indices) == exporter_module.CALIBRATION
    assert indices[0] == 0 and indices[-1] > 0.99 * dataset.size("train") - 2
    assert len(set(indices.tolist())) == len(indices)


@pytest.mark.slow
def test_calibration_in_chunks_gives_the_int8_network_of_one_image_at_a_time(
    exporter, dataset, monkeypatch
):
    torch.manual_seed(0)
    student = catalogue.build_student("resnet8", {"width": 0.25}, num_classes=4, in_channels=3)
    writer = exporter._writer("onnx")
    spec = ExportSpec(format="onnx", precision="int8")
    network = exporter._deployed(
        writer, exporter._prepare(student.eval(), cell(0, "chunked")), spec
    )
    plain = writer.convert(network, spec)
    calibration = {"image": dataset.raw("train")[:80].numpy()}
    chunked = writer.lower(plain, spec, calibration)
    monkeypatch.setattr(onnx_writer, "with_batch", lambda model, size: model)
    monkeypatch.setattr(onnx_writer, "CHUNK", 1)
    single = writer.lower(plain, spec, calibration)
    raw = {"image": dataset.raw("test").numpy()}
    assert np.array_equal(writer.run(chunked, raw), writer.run(single, raw))
    assert onnxruntime.InferenceSession(chunked).get_inputs()[0].shape == [1, 3, 8, 8]
