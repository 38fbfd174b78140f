"""Measuring on this machine and on devices in trouble."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from devices._contract import Blob, DeviceError
from devices.transport.fake import FakeTransport, made_up
from ktbench import catalogue
from ktbench.measure import (
    Budget,
    Job,
    check,
    distinct,
    evaluate,
    job_of,
    measure,
    measure_file,
    measurement_id,
)
from ktbench.records import (
    Artifact,
    DeviceSpec,
    ExportSpec,
    Failure,
    KtbenchError,
    Measurement,
    Tolerance,
)
from tests.boards import SHORT, images, job, logits, write_onnx

pytest_plugins = ("tests.board_fixtures",)

HERE = DeviceSpec(profile="local", name="here", repeats=2)
FAKE = DeviceSpec(profile="fake", name="fake", repeats=3)


def one(results: Any) -> Measurement:
    (found,) = results
    assert isinstance(found, Measurement), found
    return found


# ---------------------------------------------------------------- this machine


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


def test_a_tflite_model_is_measured_here(tflite_model: Path, tmp_path: Path) -> None:
    found = one(measure_file(tflite_model, HERE, tmp_path, budget=SHORT))
    assert found.runtime == "tflite" and found.runtime_version.startswith("ai-edge-litert")
    assert found.provider == "XNNPACK"
    assert found.validity.reasons == ()


def test_weights_that_are_not_the_artifacts_make_a_measurement_invalid(
    onnx_model: Path, tmp_path: Path
) -> None:
    wrong = job(onnx_model, inputs=images(16), expected=-logits(images(16)))
    found = one(measure(HERE, [wrong], tmp_path, budget=SHORT))
    assert not found.validity.valid
    assert "of 16 outputs agree with the reference" in found.validity.reasons[0]


def test_logits_too_far_from_the_reference_make_a_measurement_invalid(
    onnx_model: Path, tmp_path: Path
) -> None:
    expected = logits(images(16)) * 1.1
    strict = Tolerance(agreement=1.0, difference=0.01)
    given = job(onnx_model, inputs=images(16), expected=expected, tolerance=strict)
    found = one(measure(HERE, [given], tmp_path, budget=SHORT))
    assert found.agreement == 1.0
    assert "logits differ from the reference" in found.validity.reasons[0]


def test_a_dynamic_batch_runs_as_a_batch_of_one(tmp_path: Path) -> None:
    model = write_onnx(tmp_path / "dynamic.onnx", batch="N")
    given = job(model, inputs=images(4), expected=logits(images(4)))
    found = one(measure(HERE, [given], tmp_path, budget=SHORT))
    assert (found.batch, found.agreement) == (1, 1.0)


def test_a_fixed_batch_is_run_whole(tmp_path: Path) -> None:
    model = write_onnx(tmp_path / "four.onnx", batch=4)
    given = job(model, inputs=images(8), expected=logits(images(8)))
    found = one(measure(HERE, [given], tmp_path, budget=SHORT))
    assert (found.batch, found.agreement, found.checked_inputs) == (4, 1.0, 8)


def test_each_artifact_fails_alone_and_in_one_line(onnx_model: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model at all")
    jobs = [job(broken), job(onnx_model), job(tmp_path / "missing.onnx")]
    first, second, third = measure(HERE, jobs, tmp_path, budget=SHORT)
    assert isinstance(first, Failure) and "\n" not in first.reason
    assert first.stage == "measure" and first.what == "onnx-fp32 on here"
    assert isinstance(second, Measurement)
    assert isinstance(third, Failure) and "cannot read the artifact" in third.reason


def test_inputs_of_another_shape_are_a_failure(onnx_model: Path, tmp_path: Path) -> None:
    given = job(onnx_model, inputs=np.zeros((3, 3, 32, 32), np.uint8))
    (found,) = measure(HERE, [given], tmp_path, budget=SHORT)
    assert isinstance(found, Failure)
    assert found.reason == "the model takes (1, 4, 4), the inputs are (3, 32, 32)"


def test_more_threads_than_processors_are_a_failure(onnx_model: Path, tmp_path: Path) -> None:
    many = HERE.model_copy(update={"threads": (999,)})
    (found,) = measure(many, [job(onnx_model)], tmp_path, budget=SHORT)
    assert isinstance(found, Failure) and "999 threads are asked for" in found.reason


def test_a_process_that_takes_too_long_is_stopped(onnx_model: Path, tmp_path: Path) -> None:
    slow = Budget(runs=36, seconds=60.0, warm_s=0.0, cool_wait_s=0.0, limit_s=2.0)
    (found,) = measure(HERE, [job(onnx_model)], tmp_path, budget=slow)
    assert isinstance(found, Failure)
    assert found.reason == "the agent was not done after 2 s and was stopped"


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
    assert found.export == ExportSpec(format="onnx", precision="int8", opset=15)


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


# ---------------------------------------------------------------- which artifacts


def artifact(**changes: Any) -> Artifact:
    values: dict[str, Any] = {
        "cell_key": "c",
        "export": ExportSpec(format="tflite"),
        "graph_key": "g",
        "path": "artifacts/a.tflite",
        "digest": "d",
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


def test_raw_images_are_turned_to_the_layout_that_the_artifact_takes(tmp_path: Path) -> None:
    raw = np.random.default_rng(0).integers(0, 256, (20, 3, 4, 6)).astype(np.uint8)
    last = job_of(artifact(), tmp_path, raw)
    first = job_of(artifact(input_shape=(3, 4, 6)), tmp_path, raw)
    assert last.inputs is not None and first.inputs is not None
    assert last.inputs.shape == (16, 4, 6, 3) and first.inputs.shape == (16, 3, 4, 6)
    assert (last.inputs[5, 2, 3] == raw[5, :, 2, 3]).all()
    assert last.path == tmp_path / "artifacts/a.tflite"


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


# ---------------------------------------------------------------- devices in trouble


class Played:
    """A fake device whose answers are changed on their way."""

    def __init__(self, **changes: Any) -> None:
        self.tasks: list[dict[str, Any]] = []
        self.changes = changes

    def __call__(self, task: dict[str, Any], blobs: Sequence[Blob]) -> dict[str, Any]:
        self.tasks.append(task)
        answer = made_up(task, blobs)
        return {**answer, **self.changes} if task["task"] == "bench" else answer


def played(jobs: list[Job], folder: Path, device: DeviceSpec = FAKE, **changes: Any) -> list[Any]:
    way = FakeTransport(Played(**changes))
    return list(measure(device, jobs, folder, transport=way))


@pytest.fixture
def two(tmp_path: Path) -> list[Job]:
    names = ("a", "b")
    return [job(write_onnx(tmp_path / f"{name}.onnx", name)) for name in names]


def test_figures_of_no_device_are_labelled_emulated(two: list[Job], tmp_path: Path) -> None:
    found = played(two, tmp_path)
    assert [m.origin for m in found] == ["emulated", "emulated"]
    again = played(two, tmp_path)
    assert [m.p50_ms for m in found] == [m.p50_ms for m in again]


def test_artifacts_take_turns_and_results_keep_their_order(two: list[Job], tmp_path: Path) -> None:
    device = FAKE.model_copy(update={"threads": (1, 2)})
    player, steps = Played(), []
    found = list(
        measure(
            device,
            two,
            tmp_path,
            transport=FakeTransport(player),
            progress=lambda done, total: steps.append((done, total)),
        )
    )
    turns = [(t["artifact"], t["threads"], t["repeat"]) for t in player.tasks if "repeat" in t]
    assert len(set(turns[:4])) == 4 and turns[4:8] == [(a, t, 1) for a, t, _ in turns[:4]]
    assert [(m.cell_key, m.threads) for m in found] == [("a", 1), ("a", 2), ("b", 1), ("b", 2)]
    assert steps == [(n, 12) for n in range(1, 13)]


def test_a_full_measurement_tells_the_99th_percentile(two: list[Job], tmp_path: Path) -> None:
    full = FAKE.model_copy(update={"mode": "full"})
    player = Played()
    found = next(measure(full, two, tmp_path, transport=FakeTransport(player)))
    assert isinstance(found, Measurement) and found.p99_ms is not None
    task = player.tasks[-1]
    assert (task["runs"], task["seconds"], task["warm_s"]) == (662, 10.0, 1.0)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"provider": "CPU"}, "fallback: fake was asked for, CPU ran"),
        ({"state_after": {"governor": "ondemand"}}, "the governor changed"),
        ({"state_before": {"throttled": 0}, "state_after": {"throttled": 0x4}}, "throttled"),
        ({"state_before": {"throttled": 0}, "state_after": {"throttled": 0x40000}}, "throttled"),
        ({"state_before": {"cooling": {"c": 0}}, "state_after": {"cooling": {"c": 1}}}, "throttle"),
        ({"outputs_differing": 1}, "1 of 0 outputs of the timed runs differ"),
        ({"outputs_finite": False}, "not finite"),
    ],
)
def test_a_run_that_cannot_be_trusted_is_invalid_with_its_reason(
    two: list[Job], tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    first = played(two, tmp_path, **changes)[0]
    assert not first.validity.valid
    assert any(said in reason for reason in first.validity.reasons), first.validity


def test_a_throttling_of_before_the_run_proves_nothing(two: list[Job], tmp_path: Path) -> None:
    state = {"throttled": 0x50000, "cooling": {"c": 2}}
    first = played(two, tmp_path, state_before=state, state_after=state)[0]
    assert first.validity.valid


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"samples_ns": [10**6] * 50 + [3 * 10**6] * 14}, "unsteady"),
        ({"samples_ns": [50_000] * 64}, "below 0.1 ms"),
        ({"cpu_share": 0.5}, "had the processor 50% of the time"),
        ({"repeat_ratio": 0.5}, "again and again took 50%"),
        ({"state_after": {"overcurrent_events": {"oc1": 2}}}, "over-current"),
    ],
)
def test_an_unsteady_run_is_warned_of(
    two: list[Job], tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    first = played(two, tmp_path, **changes)[0]
    assert first.validity.valid
    assert any(said in warning for warning in first.validity.warnings), first.validity


def test_bounds_hold_every_repeats_own_percentile(two: list[Job], tmp_path: Path) -> None:
    def drifting(task: dict[str, Any], blobs: Sequence[Blob]) -> dict[str, Any]:
        answer = made_up(task, blobs)
        if task["task"] == "bench":
            answer["samples_ns"] = [10**6 * (1 + task["repeat"])] * 64
        return answer

    found = one(measure(FAKE, two[:1], tmp_path, transport=FakeTransport(drifting)))
    assert found.p50_ms.model_dump() == {"value": 2.0, "low": 1.0, "high": 3.0}
    assert any("medians differ by 200%" in w for w in found.validity.warnings)


def test_repeats_on_different_boards_are_not_pooled(two: list[Job], tmp_path: Path) -> None:
    def swapped(task: dict[str, Any], blobs: Sequence[Blob]) -> dict[str, Any]:
        answer = made_up(task, blobs)
        return {**answer, "facts": {"model": f"board {task.get('repeat')}"}}

    found = one(measure(FAKE, two[:1], tmp_path, transport=FakeTransport(swapped)))
    assert found.validity.reasons == ("the repeats ran on different boards or runtimes",)


@pytest.mark.parametrize(
    "changes",
    [
        {"samples_ns": []},
        {"samples_ns": [-1]},
        {"samples_ns": ["1"]},
        {"samples_ns": [10**40]},
        {"provider": None},
        {"provider": "x" * 10_000},
        {"batch": 0},
    ],
)
def test_a_malformed_answer_is_a_failure(
    two: list[Job], tmp_path: Path, changes: dict[str, Any]
) -> None:
    first = played(two, tmp_path, **changes)[0]
    assert isinstance(first, Failure)
    assert first.reason.startswith("malformed answer: ") and len(first.reason) < 300


def test_a_lost_connection_costs_one_more_try(
    two: list[Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ktbench.measure.run.RETRY_S", 0.0)
    failures = [True]

    def shaky(task: dict[str, Any], blobs: Sequence[Blob]) -> dict[str, Any]:
        if task["task"] == "bench" and task["repeat"] == 1 and failures:
            failures.pop()
            raise DeviceError("the connection broke", lost=True)
        return made_up(task, blobs)

    found = list(measure(FAKE, two, tmp_path, transport=FakeTransport(shaky)))
    assert [m.repeats for m in found if isinstance(m, Measurement)] == [3, 3]


def test_a_lost_device_fails_what_is_left_with_its_reason(
    two: list[Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ktbench.measure.run.RETRY_S", 0.0)
    monkeypatch.setattr("ktbench.measure.run.TURNS", 1)

    def unplugged(task: dict[str, Any], blobs: Sequence[Blob]) -> dict[str, Any]:
        if task["task"] == "bench" and task["artifact"] == Blob.read(two[1].path).digest:
            raise DeviceError("cannot reach fake", lost=True)
        return made_up(task, blobs)

    first, second = measure(FAKE, two, tmp_path, transport=FakeTransport(unplugged))
    assert isinstance(first, Measurement)
    assert isinstance(second, Failure) and second.reason == "cannot reach fake"


def test_a_board_of_another_architecture_is_refused(two: list[Job], tmp_path: Path) -> None:
    pi = DeviceSpec(profile="raspberry_pi_4", name="pi", host="pi")
    first, second = measure(pi, two, tmp_path, transport=FakeTransport())
    assert isinstance(first, Failure) and isinstance(second, Failure)
    assert "it is a fake machine, but profile 'raspberry_pi_4' is for aarch64" in first.reason


# ---------------------------------------------------------------- check


def test_this_machine_passes_its_check() -> None:
    found = check(HERE)
    assert found.ok and found.facts and found.facts["cores"]
    assert [name.partition(" ")[0] for name in found.runtimes] == ["onnxruntime", "tflite"]


def test_a_check_says_what_is_missing_in_plain_words(bare_python: Path) -> None:
    bare = HERE.model_copy(update={"python": str(bare_python), "threads": (999,)})
    found = check(bare)
    assert not found.ok
    text = "; ".join(found.problems)
    assert "numpy is not installed for" in text
    assert "`pip install` onnxruntime" in text
    assert "999 threads are asked for" in text


def test_a_check_shows_the_commands_that_steady_a_board_and_runs_none() -> None:
    def pi(task: dict[str, Any], blobs: Sequence[Blob]) -> dict[str, Any]:
        state = {"governor": "ondemand", "throttled": 0x1, "load": 3.5}
        runtimes = {"onnxruntime": {"version": "1", "formats": ["onnx"], "install": "x"}}
        facts = {"machine": "aarch64", "cores": 4}
        return {**made_up(task, blobs), "facts": facts, "state": state, "runtimes": runtimes}

    device = DeviceSpec(profile="raspberry_pi_4", name="pi", host="pi")
    found = check(device, FakeTransport(pi))
    assert found.ok
    assert found.advice == ("sudo cpufreq-set -r -g performance",)
    text = "; ".join(found.warnings)
    for words in ("throttled now", "busy", "does not tell its temperatures c"):
        assert words in text, text


@pytest.mark.parametrize("name", catalogue.devices())
def test_every_profile_keeps_the_contract(name: str) -> None:
    profile = catalogue.device(name)
    assert profile.title and profile.runtimes
    assert len(profile.setup) == 0 or profile.restore
    for command in (*profile.setup, *profile.restore):
        assert command and all(isinstance(word, str) for word in command)
    needs_host = profile.transport == "ssh"
    found = check(DeviceSpec(profile=name, name=name))
    assert found.ok != needs_host
    if needs_host:
        assert "no host is given" in found.problems[0]
    else:
        refused = check(DeviceSpec(profile=name, name=name, host="pi"))
        assert "takes no host" in refused.problems[0]
