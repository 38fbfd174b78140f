"""Measuring models on this machine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow.parquet as pq
import pytest

from ktbench.measure import (
    Budget,
    Judge,
    distinct,
    evaluate,
    job_of,
    measure,
    measure_file,
    measurement_id,
)
from ktbench.measure.job import Array, Arrays
from ktbench.records import (
    Artifact,
    DeviceSpec,
    ExportSpec,
    Failure,
    KtbenchError,
    Measurement,
    Tolerance,
)
from tests.support.boards import SHORT, images, job, logits, write_onnx, write_tflite

HERE = DeviceSpec(profile="local", name="here", repeats=2)


def one(results: Any) -> Measurement:
    (found,) = results
    assert isinstance(found, Measurement), found
    return found


# ---------------------------------------------------------------- this machine


@pytest.mark.slow
def test_a_model_is_measured_here_and_every_sample_is_kept(
    onnx_model: Path, tmp_path: Path
) -> None:
    given = job(onnx_model, inputs=images(20), expected=logits(images(20)))
    found = one(measure(HERE, [given], tmp_path, budget=SHORT))
    assert found.validity.reasons == ()
    assert (found.agreement, found.checked_inputs) == (1.0, 16)
    assert (found.origin, found.runtime, found.provider) == (
        "measured",
        "onnxruntime",
        "CPUExecutionProvider",
    )
    table = pq.read_table(tmp_path / found.samples)
    frame = table.to_pandas()
    assert list(frame.columns) == ["repeat", "index", "seconds"]
    assert frame.groupby("repeat")["index"].agg(list).tolist() == [list(range(36))] * 2
    assert found.runs == 72 and found.p99_ms is None
    nearest = np.sort(frame["seconds"].to_numpy())[35] * 1e3
    assert found.p50_ms.value == pytest.approx(nearest)
    assert found.p50_ms.low <= found.p50_ms.value <= found.p50_ms.high <= found.p90_ms.high
    once = json.loads(table.schema.metadata[b"ktbench.repeats"])
    loads = sorted(entry["load_ns"] / 1e6 for entry in once)
    assert loads == pytest.approx([found.load_ms.low, found.load_ms.high])
    assert found.peak_memory_bytes and found.peak_memory_bytes > 10_000_000
    assert [path.name for path in (tmp_path / "measurements").iterdir()] == [
        Path(found.samples).name
    ]


@pytest.mark.slow
def test_a_runtime_that_falls_back_makes_a_measurement_invalid(tmp_path: Path) -> None:
    taken = write_tflite(tmp_path / "a.tflite")
    unfit = write_tflite(tmp_path / "b.tflite", "LOG_SOFTMAX")
    wants = DeviceSpec(profile="local", name="here", repeats=1, provider="xnnpack")
    good, fallen = measure(wants, [job(taken), job(unfit)], tmp_path, budget=SHORT)
    assert isinstance(good, Measurement) and isinstance(fallen, Measurement)
    assert good.provider == "XNNPACK" and not good.validity.reasons
    assert fallen.validity.reasons == ("fallback: XNNPACK was requested, builtin ran",)


@pytest.mark.slow
def test_a_tflite_model_is_measured_here(tflite_model: Path, tmp_path: Path) -> None:
    found = one(measure_file(tflite_model, HERE, tmp_path, budget=SHORT))
    assert found.runtime == "tflite" and found.runtime_version.startswith("ai-edge-litert")
    assert found.provider == "XNNPACK"
    assert found.validity.reasons == ()


@pytest.mark.slow
def test_weights_that_are_not_the_artifacts_make_a_measurement_invalid(
    onnx_model: Path, tmp_path: Path
) -> None:
    wrong = job(onnx_model, inputs=images(16), expected=-logits(images(16)))
    found = one(measure(HERE, [wrong], tmp_path, budget=SHORT))
    assert not found.validity.valid
    assert "of 16 outputs agree with the reference" in found.validity.reasons[0]


@pytest.mark.slow
def test_logits_too_far_from_the_reference_make_a_measurement_invalid(
    onnx_model: Path, tmp_path: Path
) -> None:
    expected = logits(images(16)) * 1.1
    strict = Tolerance(agreement=1.0, difference=0.01)
    given = job(onnx_model, inputs=images(16), expected=expected, tolerance=strict)
    found = one(measure(HERE, [given], tmp_path, budget=SHORT))
    assert found.agreement == 1.0
    assert "logits differ from the reference" in found.validity.reasons[0]


@pytest.mark.slow
def test_a_dynamic_batch_runs_as_a_batch_of_one(tmp_path: Path) -> None:
    model = write_onnx(tmp_path / "dynamic.onnx", batch="N")
    given = job(model, inputs=images(4), expected=logits(images(4)))
    found = one(measure(HERE, [given], tmp_path, budget=SHORT))
    assert (found.batch, found.agreement) == (1, 1.0)


@pytest.mark.slow
def test_a_fixed_batch_is_run_whole(tmp_path: Path) -> None:
    model = write_onnx(tmp_path / "four.onnx", batch=4)
    given = job(model, inputs=images(8), expected=logits(images(8)))
    found = one(measure(HERE, [given], tmp_path, budget=SHORT))
    assert (found.batch, found.agreement, found.checked_inputs) == (4, 1.0, 8)


@pytest.mark.slow
def test_each_artifact_fails_alone_and_in_one_line(onnx_model: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model at all")
    jobs = [job(broken), job(onnx_model), job(tmp_path / "missing.onnx")]
    first, second, third = measure(HERE, jobs, tmp_path, budget=SHORT)
    assert isinstance(first, Failure) and "\n" not in first.reason
    assert first.stage == "measure" and first.what == "onnx-fp32 on here"
    assert isinstance(second, Measurement)
    assert isinstance(third, Failure) and "cannot read the artifact" in third.reason


@pytest.mark.slow
def test_inputs_of_another_shape_are_a_failure(onnx_model: Path, tmp_path: Path) -> None:
    given = job(onnx_model, inputs=np.zeros((3, 3, 32, 32), np.uint8))
    (found,) = measure(HERE, [given], tmp_path, budget=SHORT)
    assert isinstance(found, Failure)
    assert found.reason == "the model takes (1, 4, 4), the inputs are (3, 32, 32)"


@pytest.mark.slow
def test_more_threads_than_processors_are_a_failure(onnx_model: Path, tmp_path: Path) -> None:
    many = HERE.model_copy(update={"threads": (999,)})
    (found,) = measure(many, [job(onnx_model)], tmp_path, budget=SHORT)
    assert isinstance(found, Failure) and "999 threads are requested" in found.reason


@pytest.mark.slow
def test_a_process_that_takes_too_long_is_stopped(onnx_model: Path, tmp_path: Path) -> None:
    slow = Budget(runs=36, seconds=60.0, warm_s=0.0, cool_wait_s=0.0, limit_s=2.0)
    (found,) = measure(HERE, [job(onnx_model)], tmp_path, budget=slow)
    assert isinstance(found, Failure)
    assert found.reason == "the agent was not done after 2 s and was stopped"


@pytest.mark.slow
def test_an_int8_model_of_any_origin_is_told_as_such(tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("QuantizeLinear", ["x", "s"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "s"], ["y"]),
        ],
        "quantised",
        [info("x", TensorProto.FLOAT, ["batch", 7]), info("ids", TensorProto.INT64, [2])],
        [info("y", TensorProto.FLOAT, ["batch", 7])],
        [helper.make_tensor("s", TensorProto.FLOAT, [], [0.1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)
    onnx.save(model, tmp_path / "m.onnx")
    found = one(measure_file(tmp_path / "m.onnx", HERE, tmp_path, budget=SHORT))
    assert found.export == ExportSpec(format="onnx", precision="int8", opset=15, batch="dynamic")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("model.pt", b"", "name a .onnx or .tflite file"),
        ("model.onnx", b"junk", "not an ONNX model"),
        ("model.tflite", b"junk", "not a TFLite model"),
        ("model.onnx", None, "cannot read the model"),
    ],
)
def test_a_file_that_is_no_model_is_refused(
    tmp_path: Path, name: str, content: bytes | None, said: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(KtbenchError, match=said) as caught:
        measure_file(tmp_path / name, HERE, tmp_path, budget=SHORT)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_accuracy_on_a_device_is_counted_over_the_whole_set(
    onnx_model: Path, tmp_path: Path
) -> None:
    inputs = images(50)
    classes = logits(inputs).argmax(axis=1)
    labels = classes.copy()
    labels[:10] = (labels[:10] + 1) % 10
    (tmp_path / "bad.onnx").write_bytes(b"junk")
    jobs = [job(onnx_model), job(tmp_path / "bad.onnx")]
    good, bad = evaluate(HERE, jobs, inputs, labels, [classes, None])
    assert not isinstance(good, Failure)
    assert (good.accuracy, good.agreement, good.inputs) == (0.8, 1.0, 50)
    assert isinstance(bad, Failure) and "accuracy of onnx-fp32" in bad.what


@pytest.mark.slow
@pytest.mark.parametrize("reduction", ["top1", "none"])
def test_inputs_given_piece_by_piece_are_answered_as_the_whole_set(
    onnx_model: Path, tmp_path: Path, reduction: Literal["top1", "none"]
) -> None:
    """Also when an artifact of the call cannot be run, and the others are asked for again."""
    inputs = images(50)
    outputs = logits(inputs)
    expected = outputs.argmax(axis=1) if reduction == "top1" else outputs
    (tmp_path / "bad.onnx").write_bytes(b"junk")
    jobs = [job(onnx_model), job(tmp_path / "bad.onnx")]

    def pieces() -> Iterator[Array | Arrays]:
        return (inputs[start : start + 20] for start in range(0, 50, 20))

    def same(ours: np.ndarray, theirs: np.ndarray) -> float:
        return float(ours.shape == theirs.shape and np.allclose(ours, theirs, rtol=1e-4))

    judge = Judge(same, same, reduction)
    good, bad = evaluate(HERE, jobs, pieces, expected, [expected, None], judge=judge)
    assert not isinstance(good, Failure), good.reason
    assert (good.accuracy, good.agreement, good.inputs) == (1.0, 1.0, 50)
    assert isinstance(bad, Failure)


# ---------------------------------------------------------------- which artifacts


def artifact(**changes: Any) -> Artifact:
    values: dict[str, Any] = {
        "cell_key": "c" * 16,
        "export": ExportSpec(format="tflite"),
        "graph_key": "a" * 16,
        "path": "artifacts/a.tflite",
        "digest": "d" * 16,
        "bytes": 1,
        "input_shape": (4, 6, 3),
        "agreement": 1.0,
        "max_difference": 0.0,
        "tolerance": Tolerance(agreement=0.9, difference=None),
        "validation_accuracy": 1.0,
        "test_accuracy": 1.0,
        "runtime": "r",
        "seconds": 0.0,
        **changes,
    }
    return Artifact(**values)


def test_a_timed_run_takes_the_first_few_inputs_of_each_kind(tmp_path: Path) -> None:
    raw = np.random.default_rng(0).integers(0, 256, (20, 4, 6, 3)).astype(np.uint8)
    one = job_of(artifact(), tmp_path, raw)
    two = job_of(artifact(), tmp_path, {"ids": raw, "mask": raw[..., 0]})
    assert isinstance(one.inputs, np.ndarray) and (one.inputs == raw[:16]).all()
    assert isinstance(two.inputs, dict) and (two.inputs["mask"] == raw[:16, ..., 0]).all()
    assert one.path == tmp_path / "artifacts/a.tflite"


def test_one_artifact_per_graph_is_measured_unless_the_noise_check_is_asked_for() -> None:
    path = Path("a.onnx")
    jobs = [job(path, graph_key=g, cell_key=c) for g, c in [("g", "1"), ("g", "2"), ("h", "3")]]
    assert [j.cell_key for j in distinct(jobs, HERE)] == ["1", "3"]
    noisy = HERE.model_copy(update={"noise_check": True})
    assert distinct(jobs, noisy) == jobs


def test_a_measurements_name_is_shared_by_a_graphs_cells_and_by_nothing_else() -> None:
    one_cell, other = (job(Path("a.onnx"), graph_key="g", cell_key=c) for c in "12")
    assert measurement_id(HERE, one_cell, 1) == measurement_id(HERE, other, 1)
    more = HERE.model_copy(update={"threads": (1, 2)})
    assert measurement_id(HERE, one_cell, 1) == measurement_id(more, one_cell, 1)
    noisy = HERE.model_copy(update={"noise_check": True})
    assert measurement_id(noisy, one_cell, 1) != measurement_id(noisy, other, 1)
    graph = job(Path("a.onnx"), graph_key="h", cell_key="1")
    full = HERE.model_copy(update={"mode": "full"})
    ids = [
        measurement_id(HERE, one_cell, 1),
        measurement_id(HERE, one_cell, 2),
        measurement_id(HERE, graph, 1),
        measurement_id(full, one_cell, 1),
    ]
    assert len(set(ids)) == 4


# ---------------------------------------------------------------- int8


def read_twice(path: Path) -> Path:
    """Write a quantised graph of two convolutions, the first of which two operators read."""
    from onnx import TensorProto, helper, numpy_helper, save
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    draw = np.random.default_rng(0)
    weights = [draw.normal(size=(4, c, 3, 3)).astype(np.float32) for c in (3, 4)]
    nodes = [
        helper.make_node("Conv", ["image", "a"], ["x"], "one", pads=[1] * 4),
        helper.make_node("Conv", ["x", "b"], ["y"], "two", pads=[1] * 4),
        helper.make_node("Add", ["x", "y"], ["logits"], "three"),
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, channels, 8, 8])
        for name, channels in (("image", 3), ("logits", 4))
    ]
    tensors = [numpy_helper.from_array(w, n) for n, w in zip("ab", weights, strict=True)]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors)
    plain = path.with_name("plain.onnx")
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), plain)

    class Random(CalibrationDataReader):  # type: ignore[misc]
        left = 4

        def get_next(self) -> dict[str, Any] | None:
            self.left -= 1
            image = draw.normal(size=(1, 3, 8, 8)).astype(np.float32)
            return {"image": image} if self.left >= 0 else None

    kinds = {"activation_type": QuantType.QInt8, "weight_type": QuantType.QInt8}
    quantize_static(plain, path, Random(), quant_format=QuantFormat.QDQ, per_channel=True, **kinds)
    return path


@pytest.mark.slow
def test_an_int8_file_that_runs_partly_in_float_is_doubtful(tmp_path: Path) -> None:
    found = measure_file(read_twice(tmp_path / "signed.onnx"), HERE, tmp_path, budget=SHORT)[0]
    assert found.kernels is not None and found.kernels.layers == 2
    if found.board["machine"] == "x86_64":
        assert found.kernels.integer < 2, "signed ones are integers now: see docs/export.md"
        [warning] = [w for w in found.validity.warnings if "int8" in w]
        assert warning.endswith("export with `activations: unsigned`")
    again = Measurement.model_validate_json(found.model_dump_json())
    assert again == found
    older = found.model_copy(update={"kernels": None})
    assert "kernels" not in older.model_dump() and Measurement.model_validate(older.model_dump())
