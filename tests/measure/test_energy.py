"""Power beside a run, the energy that follows from it, and what else speaks against a figure."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from ktbench.devices._contract import Blob
from ktbench.devices.agent import bench, telemetry
from ktbench.devices.agent.protocol import TaskError
from ktbench.devices.agent.runtimes import Options, onnxruntime_, tflite_
from ktbench.devices.transport.fake import FakeTransport, made_up
from ktbench.measure import Budget, measure, measurement_id
from ktbench.measure.agent_schema import Telemetry
from ktbench.measure.energy_per_inference import integral, total_power
from ktbench.records import DeviceSpec, ExportSpec, Failure, Measurement
from tests.support.boards import SHORT, images, job, logits, write_onnx
from tests.support.sensors import AGX_ORIN, PMIC, jetpack_5, write

HERE = DeviceSpec(profile="local", name="here", repeats=1)
FAKE = DeviceSpec(profile="fake", name="fake", repeats=1)
BESIDE = Budget(
    runs=36, seconds=1.0, warm_runs=2, warm_s=0.0, cool_wait_s=0.0, limit_s=60.0,
    telemetry_s=0.1, idle_s=1.0,
)  # fmt: skip


def played(folder: Path, device: DeviceSpec = FAKE, **changes: Any) -> Measurement:
    """The measurement of a fake device whose answer is changed."""

    def answer(task: dict[str, Any], blobs: Sequence[Blob]) -> dict[str, Any]:
        found = made_up(task, blobs)
        return {**found, **changes} if task["task"] == "bench" else found

    given = job(write_onnx(folder / "a.onnx"))
    given = replace(given, export=ExportSpec(format="onnx", batch="dynamic"))
    [found] = measure(device, [given], folder, transport=FakeTransport(answer))
    assert isinstance(found, Measurement), found
    return found


def telemetry_of(watts: list[float], **changes: Any) -> dict[str, Any]:
    """A second of readings every 0.1 s from t = 0 on, of one rail that is the whole board."""
    return {
        "interval_s": 0.1,
        "source": "ina3221",
        "rails": ["VDD_SOC", "VDD_IN"],
        "total": ["VDD_IN"],
        "watts": [[0.1 * n, 99.0, value] for n, value in enumerate(watts)],
        "states": [],
        "cpu_s": 0.01,
        **changes,
    }


# ---------------------------------------------------------------- the sampler


@pytest.mark.slow
def test_a_sampler_reads_the_board_until_it_is_stopped(tmp_path: Path) -> None:
    root = jetpack_5(tmp_path, *AGX_ORIN)
    zone = "sys/class/thermal/thermal_zone0/"
    write(root, {f"{zone}type": "cpu\n", f"{zone}temp": "51000\n"})
    begin = time.monotonic()
    sampler = telemetry.Sampler(0.05, root=str(root))
    time.sleep(0.5)
    found = sampler.stop()
    end = time.monotonic()
    assert found is not None and found["source"] == "ina3221"
    assert found["total"] == ["VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"]
    times = [row[0] for row in found["watts"]]
    assert len(times) >= 5 and begin < times[0] and times == sorted(times) and times[-1] < end
    assert found["states"][0]["temperature_c"] == 51.0
    assert total_power(Telemetry.model_validate(found))[1] == pytest.approx(
        19 * 0.210 + 19 * 0.063 + 4.968
    )


def test_a_sampler_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    sampler = telemetry.Sampler(0.05, root=str(tmp_path))
    assert sampler._process.poll() is None
    assert sampler._process.stdin is not None
    sampler._process.stdin.close()  # as the system does when the owner dies
    assert sampler._process.wait(timeout=20) == 0
    assert sampler._process.stdout is not None
    sampler._process.stdout.close()


@pytest.mark.slow
def test_energy_is_measured_on_a_device_with_a_meter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, {"adc": PMIC})
    program = tmp_path / "bin" / "vcgencmd"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\n[ "$1" = pmic_read_adc ] && exec cat "{tmp_path}/adc"; exit 1')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    given = job(write_onnx(tmp_path / "a.onnx"))
    [found] = measure(HERE, [given], tmp_path, budget=BESIDE)
    assert isinstance(found, Measurement)
    assert found.power_w is not None and found.energy_mj is not None
    assert found.power_w.value == pytest.approx(0.37 + 0.66 + 1.35)
    assert found.idle_w is not None and found.idle_w.value == pytest.approx(2.38)
    assert found.energy_net_mj is not None
    assert found.energy_net_mj.value == pytest.approx(0, abs=1e-6)
    # the loop's own steps are part of the steady state, so a little more than watts times latency
    assert found.energy_mj.value >= 0.99 * 2.38 * found.mean_ms
    assert found.power_source == "pmic: 3V3_SYS + 3V7_WL_SW + VDD_CORE"
    metadata = pq.read_schema(tmp_path / found.samples).metadata[b"ktbench.repeats"]
    [once] = json.loads(metadata)
    assert len(once["telemetry"]["watts"]) >= 10 and once["telemetry"]["states"]


# ---------------------------------------------------------------- arithmetic


def test_energy_is_the_integral_over_the_steady_state_with_and_without_idle(
    tmp_path: Path,
) -> None:
    watts = [2.0] * 11 + [2.0 + 4.0 * n for n in range(11)]  # 1 s idle, then rising by 40 W/s
    found = played(
        tmp_path,
        samples_ns=[10**7] * 100,
        telemetry=telemetry_of(watts),
        idle=[0.0, 1.0],
        steady=[1.1, 2.1],
    )
    mean = 2.0 + 40.0 / 2
    assert found.power_w is not None and found.power_w.value == pytest.approx(mean)
    assert found.idle_w is not None and found.idle_w.value == pytest.approx(2.0)
    assert found.energy_mj is not None and found.energy_net_mj is not None
    assert found.energy_mj.value == pytest.approx(mean * 1.0 / 100 * 1e3)
    assert found.energy_net_mj.value == pytest.approx((mean - 2.0) * 1.0 / 100 * 1e3)
    assert found.power_source == "ina3221: VDD_IN"


def test_ends_between_two_readings_are_on_the_line_between_them() -> None:
    times = np.arange(0, 2, 0.1)
    assert integral((times, 10 * times), (0.55, 1.25), 0.1) == pytest.approx(
        5 * (1.25**2 - 0.55**2)
    )


def test_too_few_readings_or_a_gap_make_no_energy() -> None:
    times = np.array([0.0, 0.1, 0.2, 0.3, 0.4, 2.0, 2.1])
    flat = np.ones(7)
    assert integral((times, flat), (0.0, 2.1), 0.1) is None
    assert integral((times, flat), (0.0, 0.2), 0.1) is None
    assert integral((times, flat), (0.0, 0.4), 0.1) == pytest.approx(0.4)


def test_rails_that_are_no_whole_board_make_no_energy_and_a_warning(tmp_path: Path) -> None:
    part = telemetry_of([1.0] * 30, total=[])
    found = played(tmp_path, telemetry=part, steady=[0.0, 2.0])
    assert found.energy_mj is None
    assert "no rails of ina3221 add up to the whole board" in found.validity.warnings[0]


@pytest.mark.parametrize(
    "changes",
    [{"watts": [[0.0]]}, {"watts": [[None, 1.0, 1.0]]}, {"total": ["X"]}, {"states": [{}]}],
)
def test_malformed_telemetry_is_a_failure(tmp_path: Path, changes: dict[str, Any]) -> None:
    def answer(task: dict[str, Any], blobs: Sequence[Blob]) -> dict[str, Any]:
        return {**made_up(task, blobs), "telemetry": {**telemetry_of([1.0] * 3), **changes}}

    given = job(write_onnx(tmp_path / "a.onnx"))
    [found] = measure(FAKE, [given], tmp_path, transport=FakeTransport(answer))
    assert isinstance(found, Failure) and found.reason.startswith("malformed answer: telemetry")


# ---------------------------------------------------------------- validity


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"clock_jump_s": 3600.0}, "the clock jumped by +3600.0 s during the run"),
        ({"clock_jump_s": -2.0}, "the clock jumped by -2.0 s"),
        (
            {"state_before": {"power_mode": "MAXN"}, "state_after": {"power_mode": "15W"}},
            "the power mode changed during the run: 15W and MAXN",
        ),
        (
            {"state_before": {"gpu_governor": "a"}, "state_after": {"gpu_governor": "b"}},
            "the GPU's governor changed",
        ),
        (
            {"telemetry": telemetry_of([], states=[{"t": 0.5, "governor": "powersave"}])},
            "the governor changed during the run: performance and powersave",
        ),
        (
            {
                "state_before": {"throttled": 0},
                "state_after": {"throttled": 0},
                "telemetry": telemetry_of([], states=[{"t": 0.5, "throttled": 4}]),
            },
            "the board throttled during the run",
        ),
    ],
)
def test_what_happened_beside_a_run_makes_it_invalid(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    validity = played(tmp_path, **changes).validity
    assert not validity.valid and said in validity.reasons[0]


def test_a_start_over_the_temperature_gate_is_invalid(tmp_path: Path) -> None:
    pi = DeviceSpec(profile="raspberry_pi_5", name="pi", host="pi", repeats=1)
    facts = {"machine": "aarch64"}

    def answer(degrees: float) -> FakeTransport:
        state = {"temperatures_c": {"cpu": degrees}}
        return FakeTransport(
            lambda task, blobs: {**made_up(task, blobs), "facts": facts, "state_before": state}
        )

    given = job(write_onnx(tmp_path / "a.onnx"))
    [hot] = measure(pi, [given], tmp_path, transport=answer(71.0))
    [cool] = measure(pi, [given], tmp_path, transport=answer(64.0))
    assert isinstance(hot, Measurement) and isinstance(cool, Measurement)
    assert "71 °C at the start" in hot.validity.reasons[0] and hot.hottest_c == 71.0
    assert cool.validity.valid


def test_a_clock_that_is_set_is_noticed_and_prolongs_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clocks, real = bench.Clocks(), time.time
    monkeypatch.setattr(time, "time", lambda: real() - 3600)
    assert clocks.jump() == pytest.approx(-3600, abs=1)
    calls: list[bench.Call] = [lambda: []]
    begin = time.monotonic()
    bench.warm_up(calls, 1, 0.05)
    assert time.monotonic() - begin < 30


def test_a_graph_that_runs_in_parts_elsewhere_is_warned_of(tmp_path: Path) -> None:
    gpu = "CUDAExecutionProvider"
    nodes = {gpu: 20, "CPUExecutionProvider": 3}
    found = played(tmp_path, provider=gpu, wanted_provider=gpu, nodes=nodes)
    assert found.validity.valid
    warned = " ".join(found.validity.warnings)
    assert "of 23 nodes of the graph 3 on CPUExecutionProvider ran" in warned


# ---------------------------------------------------------------- providers


def options(provider: str, engines: str | None = None, threads: int = 3) -> Options:
    return Options(threads, provider, None, engines)


def test_each_provider_gets_its_own_options_and_the_next_ones_behind_it() -> None:
    found = onnxruntime_.providers(options("tensorrt", "/engines"))
    names = [name for name, _ in found]
    assert names == ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    assert found[0][1]["trt_engine_cache_path"] == "/engines"
    assert found[0][1]["trt_engine_cache_enable"] == "True"
    xnnpack = onnxruntime_.providers(options("xnnpack"))
    assert xnnpack[0] == ("XnnpackExecutionProvider", {"intra_op_num_threads": "3"})
    assert onnxruntime_.providers(options("cpu")) == [("CPUExecutionProvider", {})]
    own = onnxruntime_.session_options(options("xnnpack"))
    assert own.intra_op_num_threads == 1
    assert own.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert onnxruntime_.session_options(options("cpu")).intra_op_num_threads == 3
    with pytest.raises(TaskError, match="no provider 'npu'"):
        onnxruntime_.providers(options("npu"))


def test_who_ran_the_nodes_is_read_from_a_real_profile(tmp_path: Path) -> None:
    model = str(write_onnx(tmp_path / "a.onnx"))
    session = onnxruntime_.load(model, options("cpu", threads=1))
    session.prove()
    assert session.nodes is not None and set(session.nodes) == {"CPUExecutionProvider"}
    assert session.nodes["CPUExecutionProvider"] >= 1
    session.wanted = session.provider = "CUDAExecutionProvider"
    session.prove()
    assert session.provider == "CPUExecutionProvider"


@pytest.mark.slow
def test_a_provider_that_was_not_built_in_is_a_failure_that_says_what_is(tmp_path: Path) -> None:
    cuda = HERE.model_copy(update={"provider": "cuda"})
    [found] = measure(cuda, [job(write_onnx(tmp_path / "a.onnx"))], tmp_path, budget=SHORT)
    assert isinstance(found, Failure)
    assert "built without CUDAExecutionProvider: it has" in found.reason
    with pytest.raises(TaskError, match="not on cuda"):
        tflite_.load("a.tflite", options("cuda"))


def test_engines_are_kept_by_artifact_and_version_and_stay_in_the_store() -> None:
    task = {"artifact": "a" * 64, "threads": 1, "provider": "tensorrt"}
    found = bench.how_to_load(task, "/store", "1.19/../../x")
    assert found.engines == f"/store/engines/{'a' * 64}_1.19_.._.._x"
    assert bench.how_to_load({**task, "provider": "cuda"}, "/store", "1").engines is None


def test_a_board_keeps_no_more_engines_than_it_may(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "MOST_ENGINES", 3)
    for age, name in enumerate(("wanted", "oldest", "older", "newer", "newest")):
        path = tmp_path / "engines" / name
        path.mkdir(parents=True)
        (path / "a.engine").write_text("x")
        os.utime(path, (age, age))
    bench.prune_engines(str(tmp_path / "engines"), keep="wanted")
    assert {path.name for path in (tmp_path / "engines").iterdir()} == {"wanted", "newer", "newest"}
    bench.prune_engines(str(tmp_path / "none"), keep="wanted")


def test_a_repeat_that_reached_the_most_runs_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ktbench.measure.validity.MAX_RUNS", 64)
    found = played(tmp_path, samples_ns=[10**6] * 64)
    assert any("ended at 64 runs" in warning for warning in found.validity.warnings)


# ---------------------------------------------------------------- scenarios


@pytest.mark.slow
def test_the_offline_scenario_runs_batches_and_tells_their_throughput(tmp_path: Path) -> None:
    model = write_onnx(tmp_path / "dynamic.onnx", batch="N")
    offline = HERE.model_copy(update={"scenario": "offline", "batch_size": 8})
    given = job(model, inputs=images(16), expected=logits(images(16)))
    given = replace(given, export=ExportSpec(format="onnx", batch="dynamic"))
    [found] = measure(offline, [given], tmp_path, budget=SHORT)
    assert isinstance(found, Measurement) and found.inputs_per_s is not None
    assert (found.batch, found.agreement) == (8, 1.0)
    assert found.inputs_per_s.value == pytest.approx(8e3 / found.mean_ms)
    fixed = job(write_onnx(tmp_path / "fixed.onnx"))
    [refused] = measure(offline, [fixed], tmp_path, budget=SHORT)
    assert isinstance(refused, Failure) and "export with `batch: dynamic`" in refused.reason


@pytest.mark.slow
def test_a_sustained_run_tells_how_it_slowed_down_and_takes_throttling_for_a_finding(
    tmp_path: Path,
) -> None:
    tasks: list[dict[str, Any]] = []
    samples = [10**6] * 400 + [2 * 10**6] * 400

    def answer(task: dict[str, Any], blobs: Sequence[Blob]) -> dict[str, Any]:
        tasks.append(task)
        state = {"state_before": {"throttled": 0}, "state_after": {"throttled": 4}}
        return {**made_up(task, blobs), **state, "samples_ns": samples}

    device = FAKE.model_copy(update={"scenario": "sustained"})
    given = job(write_onnx(tmp_path / "a.onnx"))
    [found] = measure(device, [given], tmp_path, transport=FakeTransport(answer))
    assert isinstance(found, Measurement)
    assert tasks[-1]["seconds"] == 600.0 and tasks[-1]["telemetry_s"] > 0
    assert found.slowdown == pytest.approx(2.0)
    assert found.validity.valid and "the board throttled during the run" in found.validity.warnings


def test_new_settings_of_a_device_leave_the_names_of_old_measurements_alone(
    tmp_path: Path,
) -> None:
    given = job(write_onnx(tmp_path / "a.onnx"))
    plain = DeviceSpec(profile="local", name="here")
    assert set(json.loads(plain.canonical)).isdisjoint({"provider", "scenario", "batch_size"})
    offline = plain.model_copy(update={"scenario": "offline"})
    assert measurement_id(plain, given, 1) != measurement_id(offline, given, 1)
