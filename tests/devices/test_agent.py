"""What runs on the board: its syntax, its facts, its timing."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ktbench.devices.agent import bench, inputs
from ktbench.devices.agent.board import Board
from ktbench.devices.agent.protocol import TaskError
from ktbench.devices.agent.runtimes import Input, choose, installed, module, names
from ktbench.devices.transport.local import LocalTransport
from ktbench.measure.target import npy
from tests.support.sensors import ORIN_NANO, jetpack_5

AGENT = Path(bench.__file__).parent
FILES = sorted(AGENT.rglob("*.py"))


# ---------------------------------------------------------------- the oldest board


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_the_agent_is_written_for_python_3_6(path: Path) -> None:
    tree = ast.parse(path.read_text(), feature_version=(3, 6))
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name):
            assert node.value.id not in ("list", "dict", "tuple", "set", "type"), node.lineno
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
            assert not isinstance(node.right, ast.Constant) or node.right.value is not None
        if isinstance(node, ast.Call):
            words = {keyword.arg for keyword in node.keywords}
            assert not words & {"capture_output", "text", "missing_ok", "dirs_exist_ok"}
        if isinstance(node, ast.Attribute):
            assert node.attr not in ("removeprefix", "removesuffix", "perf_counter_ns"), node.lineno


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_the_agent_imports_what_the_oldest_board_has(path: Path) -> None:
    newer = {"__future__", "dataclasses", "contextvars", "zoneinfo", "graphlib", "tomllib"}
    known = (set(sys.stdlib_module_names) - newer) | {"numpy"}
    if path.parent.name == "runtimes":
        known |= {"onnxruntime", "ai_edge_litert", "tflite_runtime"}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            assert {alias.name.partition(".")[0] for alias in node.names} <= known
        if isinstance(node, ast.ImportFrom) and not node.level:
            assert (node.module or "").partition(".")[0] in known


def oldest_python() -> str:
    """The oldest interpreter of this machine that is older than this one's; skips without."""
    folders = [Path(name) for name in os.environ.get("PATH", "").split(os.pathsep)]
    folders += sorted(Path.home().glob(".pyenv/versions/3.*/bin"))
    for minor in range(6, sys.version_info.minor):
        for path in (folder / f"python3.{minor}" for folder in folders):
            ask = [str(path), "-c", "import sys; print(sys.version_info[1])"]
            if path.is_file() and "shims" not in path.parts:
                done = subprocess.run(ask, capture_output=True, text=True)
                if done.stdout.strip() == str(minor):
                    return str(path)
    pytest.skip("there is no older interpreter here")


@pytest.mark.slow
def test_the_agent_and_its_sampler_run_under_the_oldest_python_that_is_here(
    tmp_path: Path,
) -> None:
    python = oldest_python()
    transport = LocalTransport(python)
    try:
        found = transport.run({"task": "probe"}, [], 60.0)
        assert found["interpreter"] == python or Path(found["interpreter"]).samefile(python)
        archive = next(Path(transport._folder.name).glob("*"))
        program = (
            "import sys, time; sys.path.insert(0, sys.argv[1]);"
            "from agent import telemetry; sampler = telemetry.Sampler(0.05, root=sys.argv[2]);"
            "time.sleep(0.2); print(len(sampler.stop()['watts']) > 1)"
        )
        board = jetpack_5(tmp_path, ORIN_NANO)
        done = subprocess.run(
            [python, "-c", program, archive, board], capture_output=True, text=True, timeout=60
        )
    finally:
        transport.close()
    assert done.stdout.strip() == "True", done.stderr


# ---------------------------------------------------------------- facts


def tree(root: Path, files: dict[str, str]) -> Board:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Board(str(root))


def test_an_absent_sensor_is_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    board = Board(str(tmp_path))
    assert board.state() == {}
    assert set(board.facts()) == {"machine", "kernel", "python", "cores"}
    assert board.temperature() is None


def test_a_raspberry_pi_is_read_from_its_files(tmp_path: Path) -> None:
    cpu = "sys/devices/system/cpu/cpu0/cpufreq/"
    board = tree(
        tmp_path,
        {
            "proc/device-tree/model": "Raspberry Pi 4 Model B Rev 1.4\0",
            "proc/cpuinfo": "CPU implementer\t: 0x41\nCPU part\t: 0xd08\n" * 4,
            "proc/meminfo": "MemTotal:        3884128 kB\nMemAvailable:    3000000 kB\n",
            "etc/os-release": 'NAME="Debian"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n',
            cpu + "scaling_governor": "ondemand\n",
            cpu + "scaling_cur_freq": "1500000\n",
            cpu + "cpuinfo_max_freq": "1800000\n",
            "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
            "sys/class/thermal/thermal_zone0/temp": "54321\n",
            "sys/class/thermal/thermal_zone1/type": "PMIC-Die\n",
            "sys/class/thermal/thermal_zone1/temp": "100000\n",
            "sys/devices/platform/soc/soc:firmware/get_throttled": "50005\n",
            "sys/class/thermal/cooling_device0/type": "cpufreq-cpu0\n",
            "sys/class/thermal/cooling_device0/cur_state": "2\n",
            "sys/class/thermal/cooling_device1/type": "pwm-fan\n",
            "sys/class/thermal/cooling_device1/cur_state": "3\n",
            "proc/loadavg": "0.52 0.4 0.3 1/100 200\n",
        },
    )
    facts, state = board.facts(), board.state()
    assert facts["model"] == "Raspberry Pi 4 Model B Rev 1.4"
    assert facts["cpu"] == ["Cortex-A72"]
    assert facts["max_mhz"] == [1800.0]
    assert facts["memory_bytes"] == 3884128 * 1024
    assert facts["os"] == "Debian GNU/Linux 12 (bookworm)"
    assert state == {
        "governor": "ondemand",
        "mhz": [1500.0],
        "temperatures_c": {"cpu-thermal#0": 54.321},
        "throttled": 0x50005,
        "cooling": {"cpufreq-cpu0#0": 2},
        "memory_available_bytes": 3000000 * 1024,
        "load": 0.52,
    }


def test_a_boards_own_programs_are_asked_where_files_say_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = {
        "vcgencmd": 'case $1 in measure_temp) echo "temp=48.3\'C";; *) echo throttled=0x4;; esac',
        "nvpmodel": 'echo "NV Power Mode: 15W"; echo 0',
    }
    for name, body in answers.items():
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\n{body}\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    state = Board(str(tmp_path / "empty")).state()
    assert state == {"temperatures_c": {"vcgencmd": 48.3}, "throttled": 4, "power_mode": "15W"}


def test_an_unreadable_sensor_is_no_crash(tmp_path: Path) -> None:
    zone = "sys/class/thermal/thermal_zone0/"
    board = tree(tmp_path, {zone + "type": "gpu", zone + "temp": "\xff nonsense"})
    assert "temperatures_c" not in board.state()


def test_fast_cores_are_chosen_first_and_hyperthreads_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = "sys/devices/system/cpu/cpu{}/"
    files = {}
    for cpu, (khz, core) in enumerate([(1800, "0"), (2400, "1-2"), (2400, "1-2"), (2400, "3")]):
        files[base.format(cpu) + "cpufreq/cpuinfo_max_freq"] = str(khz * 1000)
        files[base.format(cpu) + "topology/thread_siblings_list"] = core
    board = tree(tmp_path, files)
    monkeypatch.setattr("ktbench.devices.agent.board._allowed", lambda: [0, 1, 2, 3])
    assert board.choose_cpus(4) == [3, 2, 0, 1]


def test_measuring_waits_for_a_hot_board_and_no_longer_than_it_may(tmp_path: Path) -> None:
    zone = "sys/class/thermal/thermal_zone0/"
    board = tree(tmp_path, {zone + "type": "cpu", zone + "temp": "80000"})
    assert bench.cool_down(board, 60.0, 0.05) >= 0.05
    assert bench.cool_down(board, 90.0, 60.0) < 10
    assert bench.cool_down(board, None, 60.0) < 10


# ---------------------------------------------------------------- timing


@pytest.mark.slow
def test_a_timed_run_keeps_every_sample_and_goes_round_the_inputs() -> None:
    seen: list[int] = []
    calls = [lambda n=n: seen.append(n) or [np.array([n])] for n in range(3)]
    found = bench.time_steadily(calls, 36, 0.0, 10**6)
    assert seen == [n % 3 for n in range(36)]
    assert len(found["samples"]) == 36
    assert len(found["kept"]) == bench.SAMPLED_OUTPUTS
    assert all(out[0][0] == index % 3 for index, out in found["kept"])


@pytest.mark.slow
def test_a_timed_run_lasts_as_long_as_asked_but_for_its_limit() -> None:
    calls = [lambda: time.sleep(0.001) or []]
    found = bench.time_steadily(calls, 36, 0.1, 10**6)
    assert sum(found["samples"]) >= 0.05e9
    assert min(found["samples"]) >= 1e6
    assert len(bench.time_steadily(calls, 36, 5.0, 40)["samples"]) == 40


def test_warming_up_lasts_both_its_runs_and_its_seconds() -> None:
    quick = [lambda: []]
    assert bench.warm_up(quick, 10, 0.0) == 10
    start = time.monotonic()
    assert bench.warm_up(quick, 1, 0.1) > 1
    assert time.monotonic() - start >= 0.1


@pytest.mark.slow
def test_a_model_that_remembers_its_last_input_is_noticed() -> None:
    last: list[int] = []

    def call(n: int) -> Any:
        if last != [n]:
            time.sleep(0.002)
            last[:] = [n]
        return []

    calls = [lambda n=n: call(n) for n in range(2)]
    samples = bench.time_steadily(calls, 36, 0.0, 10**6)["samples"]
    ratio = bench.repeat_ratio(calls, samples)
    assert ratio < 0.5
    assert bench.repeat_ratio(calls[:1], samples) is None


def test_outputs_are_the_same_up_to_rounding_alone() -> None:
    one = [np.array([[1.0, -2.0]], np.float32)]
    assert bench.same(one, [one[0] * (1 + 1e-6)])
    assert not bench.same(one, [one[0] * 1.01])
    assert not bench.same(one, [])
    assert not bench.same(one, [one[0][0]])


def test_an_output_that_is_not_finite_is_told_and_not_sent() -> None:
    told = bench.describe_outputs([[np.array([[1.0, np.nan]])]])
    assert told["outputs_finite"] is False and told["outputs"] is None


# ---------------------------------------------------------------- inputs and runtimes


def test_random_inputs_suit_any_model_and_repeat() -> None:
    specs = [Input("image", "float32", (1, 3, 4)), Input("ids", "int64", (1, 5))]
    specs.append(Input("raw", "uint8", (2,)))
    first, again = inputs.random(specs), inputs.random(specs)
    for one, other in zip(first, again, strict=True):
        for a, b, spec in zip(one, other, specs, strict=True):
            assert a.dtype.name == spec.dtype and a.shape == spec.shape
            assert (a == b).all()
    assert (first[0][0] != first[1][0]).any()


def test_a_stack_of_inputs_is_cut_into_the_models_batches() -> None:
    stack = np.arange(10, dtype=np.uint8).reshape(5, 2)
    found = inputs.batches({"": stack}, [Input("x", "float32", (2, 2))], 2)
    assert [feed[0].tolist() for feed in found] == [
        [[0, 1], [2, 3]],
        [[4, 5], [6, 7]],
        [[8, 9], [0, 1]],
    ]
    assert found[0][0].dtype == np.float32
    with pytest.raises(TaskError, match=r"the model takes \(3,\), the inputs are \(2,\)"):
        inputs.batches({"": stack}, [Input("x", "float32", (1, 3))], 1)


def test_several_inputs_are_found_by_name_in_any_order(tmp_path: Path) -> None:
    ids, mask = np.arange(6).reshape(3, 2), np.ones((3, 2), dtype=np.int64)
    (tmp_path / "two.npy").write_bytes(npy({"ids": ids, "mask": mask}).data)
    stacks = inputs.read(str(tmp_path / "two.npy"))
    specs = [
        Input("serving_default_mask:0", "int32", (1, 2)),
        Input("serving_default_ids:0", "int32", (1, 2)),
    ]
    found = inputs.batches(stacks, specs, 1)
    assert [feed[1].tolist() for feed in found] == [[[0, 1]], [[2, 3]], [[4, 5]]]
    assert found[0][0].tolist() == [[1, 1]] and found[0][0].dtype == np.int32
    with pytest.raises(TaskError, match="the model takes 1 inputs, ids among them; sent were"):
        inputs.batches(stacks, specs[1:], 1)


def test_an_object_array_is_not_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "evil.npy", np.array([[print]], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="allow_pickle"):
        inputs.read(str(tmp_path / "evil.npy"))


def test_every_runtime_of_the_folder_keeps_the_contract() -> None:
    assert names() == ["onnxruntime", "tflite"]
    for name, entry in installed().items():
        assert entry["formats"] and entry["install"] and entry["version"], name
    with pytest.raises(TaskError, match="no runtime"):
        module("../../os")


def test_a_process_loads_no_runtime_but_the_one_that_it_needs() -> None:
    lines = (
        "import sys; from ktbench.devices.agent.runtimes import choose",
        "assert choose(['onnxruntime', 'tflite'], 'tflite') == 'tflite'",
        "assert 'ai_edge_litert' in sys.modules and 'onnxruntime' not in sys.modules",
    )
    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True)


def test_a_format_without_a_runtime_says_what_is_missing() -> None:
    assert choose(["tflite", "onnxruntime"], "onnx") == "onnxruntime"
    with pytest.raises(TaskError, match="no runtime for onnx models"):
        choose(["tflite"], "onnx")
