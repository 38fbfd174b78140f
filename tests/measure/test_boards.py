"""Measuring over SSH, and with the runtime of older boards; both are real."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest

from ktbench.devices._contract import Blob
from ktbench.devices.transport._exchange import agent_archive
from ktbench.devices.transport.ssh import COMMAND
from ktbench.measure import Budget, check, measure, measure_file
from ktbench.records import DeviceSpec, Failure, KtbenchError, Measurement
from tests.support.boards import SHORT, SshBoard, agent_of, images, job, logits, write_onnx


@pytest.mark.slow
def test_models_are_measured_over_ssh(
    board: SshBoard, onnx_model: Path, tflite_model: Path, tmp_path: Path
) -> None:
    jobs = [
        job(onnx_model, inputs=images(16), expected=logits(images(16))),
        job(tflite_model),
    ]
    onnx, tflite = measure(board.spec(), jobs, tmp_path, budget=SHORT)
    assert isinstance(onnx, Measurement) and isinstance(tflite, Measurement)
    assert (onnx.agreement, onnx.validity.reasons) == (1.0, ())
    assert (onnx.runtime, tflite.runtime) == ("onnxruntime", "tflite")
    assert (tmp_path / onnx.samples).exists() and (tmp_path / tflite.samples).exists()


@pytest.mark.slow
def test_a_models_name_reaches_no_shell(board: SshBoard, tmp_path: Path) -> None:
    folder = tmp_path / "; touch pwned; $(touch pwned) `touch pwned` 'x"
    model = write_onnx(folder / "-oProxyCommand=touch pwned\n.onnx")
    (found,) = measure(board.spec(), [job(model)], tmp_path, budget=SHORT)
    assert isinstance(found, Measurement)
    assert not list(tmp_path.rglob("pwned")) and not (Path.home() / "pwned").exists()


@pytest.mark.slow
def test_a_board_without_the_runtime_fails_every_job_and_says_what_to_install(
    board: SshBoard, bare_python: Path, onnx_model: Path, tmp_path: Path
) -> None:
    device = board.spec(python=str(bare_python))
    (found,) = measure(device, [job(onnx_model)], tmp_path, budget=SHORT)
    assert isinstance(found, Failure)
    assert "numpy" in found.reason and "\n" not in found.reason
    assert "no runtime is installed" in " ".join(check(device).problems)


@pytest.mark.parametrize("host", ["impostor", "nowhere", "-oProxyCommand=true"])
@pytest.mark.slow
def test_a_board_that_cannot_be_had_fails_every_job_with_the_same_line(
    board: SshBoard, host: str, onnx_model: Path, tmp_path: Path
) -> None:
    device = board.spec(host)
    found = list(measure(device, [job(onnx_model)] * 2, tmp_path, budget=SHORT))
    reasons = [f.reason for f in found if isinstance(f, Failure)]
    assert len(reasons) == 2 and reasons[0] == reasons[1] == check(device).problems[0]
    with pytest.raises(KtbenchError) as caught:
        measure_file(onnx_model, device, tmp_path, budget=SHORT)
    assert reasons[0] in str(caught.value)


@pytest.mark.slow
def test_the_agent_runs_with_tflite_runtime_2_14(
    old_tflite_python: Path, tflite_model: Path, onnx_model: Path, tmp_path: Path
) -> None:
    device = DeviceSpec(profile="local", name="old", python=str(old_tflite_python), repeats=1)
    tflite, onnx = measure(device, [job(tflite_model), job(onnx_model)], tmp_path, budget=SHORT)
    assert isinstance(tflite, Measurement)
    assert tflite.runtime_version == "tflite-runtime 2.14.0"
    assert str(tflite.board["numpy"]).startswith("1.")
    assert tflite.provider == "XNNPACK" and tflite.validity.reasons == ()
    assert isinstance(onnx, Failure) and "no runtime for onnx models" in onnx.reason
    found = check(device)
    assert found.ok and "install onnxruntime" in " ".join(found.warnings)


@pytest.mark.slow
def test_the_agent_measures_under_python_3_6_with_onnxruntime_1_10(
    jetpack_4_python: Path, tmp_path: Path
) -> None:
    path = write_onnx(tmp_path / "old.onnx")
    model = onnx.load(path)
    model.ir_version, model.opset_import[0].version = 8, 15
    onnx.save(model, path)
    device = DeviceSpec(profile="local", name="old", python=str(jetpack_4_python), repeats=1)
    given = job(path, inputs=images(16), expected=logits(images(16)))
    (found,) = measure(device, [given], tmp_path, budget=replace(SHORT, telemetry_s=0.05))
    assert isinstance(found, Measurement)
    assert (found.runtime_version, found.agreement) == ("1.10.0", 1.0)
    assert str(found.board["python"]).startswith("3.6.") and found.validity.reasons == ()


@pytest.mark.slow
def test_a_lost_python_is_told_over_ssh(board: SshBoard) -> None:
    missing = board.spec(python=sys.executable + "-gone")
    assert "cannot start the interpreter" in check(missing).problems[0]


# ---------------------------------------------------------------- in mid-measurement


def _children(pid: int) -> list[int]:
    """A process's descendants, the youngest last."""
    found = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        found += [int(child), *_children(int(child))]
    return found


def _wait(condition: Callable[[], bool], what: str) -> None:
    for _ in range(200):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError(f"waited in vain: {what}")


def _agents(parent: int) -> list[int]:
    """Descendants that are the agent, a Python that runs a file of a store: one that looks after
    a series, and the one at work."""
    found = []
    for pid in _children(parent):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if len(words) > 1 and words[1].endswith(agent_archive().digest.encode()):
            found.append(pid)
    return found


@pytest.mark.slow
def test_a_board_that_is_unplugged_in_mid_measurement_is_tried_again(
    board: SshBoard, tmp_path: Path
) -> None:
    model = write_onnx(tmp_path / "unplugged.onnx", batch="unplugged")
    stored = board.store / Blob.read(model).digest
    budget = Budget(runs=36, seconds=2.0, warm_s=0.0, cool_wait_s=0.0, limit_s=60.0)
    found: list[Measurement | Failure] = []

    def work() -> None:
        found.extend(measure(board.spec(), [job(model)], tmp_path, budget=budget))

    worker = threading.Thread(target=work)
    worker.start()
    _wait(lambda: stored.exists() and len(_agents(board.server)) == 2, "the agent")
    agents = _agents(board.server)
    for pid in set(_children(board.server)) - set(agents):
        os.kill(pid, signal.SIGKILL)
    _wait(lambda: not any(Path(f"/proc/{agent}").exists() for agent in agents), "the agents' end")
    worker.join(timeout=60)
    (result,) = found
    assert isinstance(result, Measurement)
    assert result.repeats == 1


@pytest.mark.slow
def test_an_agent_ends_when_its_host_is_gone(onnx_model: Path, tmp_path: Path) -> None:
    script = """
import sys
from pathlib import Path
from ktbench.measure import Budget, measure
from ktbench.records import DeviceSpec
from tests.support.boards import job
budget = Budget(runs=36, seconds=300.0)
device = DeviceSpec(profile="local", name="here")
list(measure(device, [job(Path(sys.argv[1]))], Path(sys.argv[2]), budget=budget))
"""
    stored = Blob.read(onnx_model).digest
    host = subprocess.Popen(
        [sys.executable, "-c", script, onnx_model, tmp_path],
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    try:
        # the probe's agent comes first; the artifact tells them apart
        _wait(lambda: bool(list(tmp_path.glob(f"*/{stored}"))), "the artifact")
        _wait(lambda: len(_agents(host.pid)) == 2, "the agent")
        agents = _agents(host.pid)
    finally:
        host.kill()
        host.wait()
    _wait(lambda: not any(Path(f"/proc/{agent}").exists() for agent in agents), "the agents' end")


# ---------------------------------------------------------------- a series


@pytest.mark.slow
def test_a_process_that_dies_costs_its_own_artifact_alone_and_is_not_tried_again(
    board: SshBoard, onnx_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = write_onnx(tmp_path / "bad.onnx", batch="killer")
    digest = Blob.read(bad).digest
    stub = (
        "import os\nfrom agent import bench\n_timed = bench.timed\n"
        "def timed(task, folder):\n"
        f"    if task['artifact'] == {digest!r}:\n"
        f"        open({str(tmp_path / 'died')!r}, 'a').write('x')\n"
        "        os.write(2, b'Illegal instruction\\n')\n"
        "        os.kill(os.getpid(), 9)\n"
        "    return _timed(task, folder)\n"
        "bench.timed = timed\n"
    )
    agent_of(stub, monkeypatch)
    good, killed = measure(
        board.spec(repeats=2), [job(onnx_model), job(bad)], tmp_path, budget=SHORT
    )
    assert isinstance(good, Measurement) and good.repeats == 2
    assert isinstance(killed, Failure)
    assert "signal 9, as when memory runs out): Illegal instruction" in killed.reason
    assert (tmp_path / "died").read_text() == "x"


@pytest.mark.slow
def test_what_was_changed_on_the_board_between_two_repeats_is_not_run(
    board: SshBoard, onnx_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub = (
        "import sys\nfrom agent import bench\n_bench = bench.bench\n"
        "def swapped(task, folder):\n"
        "    answer = _bench(task, folder)\n"
        "    with open(sys.argv[0], 'ab') as file:\n"
        "        file.write(b'# somebody else')\n"
        "    return answer\n"
        "bench.bench = swapped\n"
    )
    agent_of(stub, monkeypatch)
    (found,) = measure(board.spec(repeats=2), [job(onnx_model)], tmp_path, budget=SHORT)
    assert isinstance(found, Failure) and "was changed in the meantime" in found.reason


@pytest.mark.slow
def test_repeats_of_a_deployment_cost_the_link_once(
    board: SshBoard, onnx_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[str] = []
    popen = subprocess.Popen

    def counted(*args: Any, **more: Any) -> Any:
        begun.append(str(args[0][-1]))
        return popen(*args, **more)

    monkeypatch.setattr("ktbench.devices.transport._exchange.subprocess.Popen", counted)
    jobs = [job(onnx_model, digest=str(n), graph_key=str(n)) for n in range(2)]
    found = list(measure(board.spec(repeats=2), jobs, tmp_path, budget=SHORT))
    assert all(isinstance(each, Measurement) and each.repeats == 2 for each in found)
    assert begun.count(COMMAND) == 3  # what is there, four repeats, letting go
