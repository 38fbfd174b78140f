"""What only a machine of its own can suffer: unplugged, frozen, without power, memory or space."""

from __future__ import annotations

import base64
import re
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from ktbench.devices._contract import Blob, DeviceError
from ktbench.devices.agent import protocol
from ktbench.devices.transport import ssh
from ktbench.devices.transport.ssh import SshTransport
from ktbench.measure import measure
from ktbench.records import DeviceSpec, Failure, Measurement
from tests.support.boards import SHORT, images, job, logits, write_onnx, write_tflite
from tests.support.emulated import EmulatedBoard
from tests.support.emulated_tasks import watched

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

DEVICE = DeviceSpec(profile="emulated_aarch64", host="board", name="emulated", repeats=1)
STEADY = replace(SHORT, seconds=5.0)
"""Long enough for something to happen in the middle."""
FAKED_SENSORS = """set -e; mkdir -p /run/board/cpu; cd /run/board
cp -dR /sys/devices/system/cpu/. cpu 2>/dev/null || true
mkdir -p cpu/cpu0/cpufreq; echo performance > cpu/cpu0/cpufreq/scaling_governor
/bin/busybox mount --bind cpu /sys/devices/system/cpu
echo 0x50000 > throttled
mkdir -p /usr/local/bin
printf '#!/bin/sh\\n[ "$1" = get_throttled ] && echo throttled=$(cat /run/board/throttled)\\n' \
    > /usr/local/bin/vcgencmd
chmod 755 /usr/local/bin/vcgencmd
"""
REAL_SENSORS = "rm /usr/local/bin/vcgencmd; /bin/busybox umount -l /sys/devices/system/cpu"
DISTURBED = """echo ondemand > /run/board/cpu/cpu0/cpufreq/scaling_governor
echo 0x50004 > /run/board/throttled
date -s @$(($(date +%s) + 3600))
"""
NO_THRASHING = "cd /sys/kernel/mm/lru_gen && echo y > enabled && echo 1000 > min_ttl_ms"
"""The kernel ends a process rather than drop what was used within a second; else it takes minutes
over dropping the programs themselves and reading them anew (its admin guide, multigen_lru)."""
FILLED = """python3 -c "
import os
with open('/home/pi/filler', 'wb') as file:
    free = os.statvfs('/').f_bavail * os.statvfs('/').f_frsize
    os.posix_fallocate(file.fileno(), 0, free - (1 << 20))
"; dd if=/dev/zero of=/home/pi/rest bs=64k 2>&1"""


def measured(path: Path, folder: Path, **changes: Any) -> Measurement | Failure:
    """One measurement of a linear model on the board."""
    given = job(path, inputs=images(16), expected=logits(images(16)))
    (found,) = measure(DEVICE, [given], folder, **{"budget": SHORT, **changes})
    return found


def test_what_changes_on_the_board_during_a_run_makes_it_invalid(
    reached: EmulatedBoard, tmp_path: Path
) -> None:
    done = reached.ssh(FAKED_SENSORS, user="root")
    assert done.returncode == 0, done.stderr
    model = write_onnx(tmp_path / "disturbed.onnx", batch="disturbed")
    disturber = reached.once_measuring(Blob.read(model).digest, DISTURBED)
    try:
        found = measured(model, tmp_path, budget=STEADY)
        assert disturber.wait(timeout=60) == 0
    finally:
        disturber.kill()
        reached.ssh(REAL_SENSORS, user="root")
    assert isinstance(found, Measurement)
    jump, *others = sorted(found.validity.reasons, key=lambda reason: "clock" not in reason)
    assert re.match(r"the clock jumped by \+3[56]\d\d\.\d s during the run", jump)
    assert sorted(others) == [
        "the board throttled during the run",
        "the governor changed during the run: ondemand and performance",
    ]


def test_a_full_disk_is_told_and_leaves_nothing_behind(reached: EmulatedBoard) -> None:
    store, blob = "ls -A ~/.cache/ktbench/store", Blob.of(bytes(1_000_000))
    with closing(SshTransport("board")) as way:
        way.run({"task": "look"}, [], 60)
        before = reached.ssh(store).stdout
        assert "No space left" in reached.ssh(FILLED).stdout
        try:
            with pytest.raises(DeviceError, match="no space is left on the board"):
                way.run({"task": "look"}, [blob], 60)
        finally:
            reached.ssh("rm -f /home/pi/filler /home/pi/rest")
        assert reached.ssh(store).stdout == before and "held.json" in before
        way.run({"task": "look"}, [blob], 60)


def test_a_runtime_that_falls_back_is_invalid_and_one_without_the_provider_says_what_it_has(
    reached: EmulatedBoard, tmp_path: Path
) -> None:
    model = write_onnx(tmp_path / "a.onnx", "lacking")
    unfit = write_tflite(tmp_path / "b.tflite", "LOG_SOFTMAX")
    wants = DEVICE.model_copy(update={"provider": "xnnpack"})
    lacking, fallen = measure(wants, [job(model), job(unfit)], tmp_path, budget=SHORT)
    assert isinstance(lacking, Failure)
    assert "built without XnnpackExecutionProvider: it has" in lacking.reason, lacking
    assert "CPUExecutionProvider" in lacking.reason
    assert isinstance(fallen, Measurement)
    assert fallen.validity.reasons == ("fallback: XNNPACK was requested, builtin ran",)


# ---------------------------------------------------------------- a board that lies


LIAR = """#!/usr/bin/python3
import json, sys
lies = {lies!r}
sys.argv = sys.argv[1:]
sys.path.insert(0, sys.argv[0])
from agent import __main__ as agent, protocol, series
frame, honest = protocol.frame, series.outcome
def outcome(task, store):
    lie = lies.get(task["artifact"])
    if lie != "paths":
        return honest(task, store) if lie is None else lie
    answer = json.loads(honest(task, store).decode())
    escaping = "../../../../../../tmp/escaped"
    answer["ok"].update(runtime=escaping, provider=escaping, wanted_provider=escaping)
    answer["ok"].update(artifact=escaping, outputs_digest=escaping, samples=escaping)
    answer["ok"]["facts"][escaping] = escaping
    return json.dumps(answer).encode()
series.outcome = outcome
protocol.frame = lambda body: body if body.startswith(protocol.MARK) else frame(body)
agent.main()
"""
"""In the place of the board's Python: the agent, but for what it answers of some artifacts."""


def test_a_board_that_lies_harms_nothing_here_and_its_honest_answers_count(
    reached: EmulatedBoard, tmp_path: Path
) -> None:
    names = ("endless", "text", "paths", "honest")
    models = {name: write_onnx(tmp_path / "models" / f"{name}.onnx", name) for name in names}
    lies: dict[str, bytes | str] = {
        "endless": protocol.MARK + b"\xff" * 4 + b"{" * 100_000,  # announces 4 GiB
        "text": b"'; rm -rf ~ #",
        "paths": "paths",
    }
    told = {Blob.read(models[name]).digest: lie for name, lie in lies.items()}
    script = base64.b64encode(LIAR.format(lies=told).encode()).decode()
    reached.ssh("/bin/busybox base64 -d > liar; chmod 755 liar", given=script)
    device = DEVICE.model_copy(update={"python": "~/liar"})
    results = tmp_path / "results"
    results.mkdir()
    try:
        jobs = [job(models[name]) for name in names]
        found = dict(zip(names, measure(device, jobs, results, budget=SHORT), strict=True))
    finally:
        reached.ssh("rm liar")
    endless, text, paths, honest = (found[name] for name in names)
    assert isinstance(endless, Failure) and "over the limit" in endless.reason, endless
    assert isinstance(text, Failure) and "a message is not JSON" in text.reason, text
    assert isinstance(paths, Measurement) and paths.runtime.endswith("/tmp/escaped")
    assert isinstance(honest, Measurement) and honest.validity.valid
    written = {path.relative_to(results).as_posix() for path in results.rglob("*.*")}
    assert written == {paths.samples, honest.samples}
    assert not Path("/tmp/escaped").exists()


# ---------------------------------------------------------------- memory


def write_hungry(path: Path) -> Path:
    """A small file that asks for eight times 128 MiB at once, each a different function of x."""
    big = numpy_helper.from_array(np.array([32, 1024, 1024]), "big")
    nodes = [helper.make_node("ReduceSum", ["x"], ["s"], keepdims=0)]
    for n in range(8):
        nodes.append(helper.make_node("Add", ["s" if n == 0 else f"s{n - 1}", "s"], [f"s{n}"]))
        nodes.append(helper.make_node("Expand", [f"s{n}", "big"], [f"b{n}"]))
    nodes.append(helper.make_node("Sum", [f"b{n}" for n in range(8)], ["sum"]))
    nodes.append(helper.make_node("ReduceMax", ["sum"], ["y"], keepdims=0))
    graph = helper.make_graph(
        nodes,
        "hungry",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [])],
        [big],
    )
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), path)
    return path


def test_an_artifact_that_needs_more_memory_than_there_is_fails_alone_and_says_so(
    reached: EmulatedBoard, tmp_path: Path
) -> None:
    jobs = [job(write_hungry(tmp_path / "hungry.onnx")), job(write_onnx(tmp_path / "b.onnx", "b"))]
    done = reached.ssh(NO_THRASHING, user="root")
    assert done.returncode == 0, done.stderr
    hungry, modest = measure(DEVICE, jobs, tmp_path, budget=replace(SHORT, limit_s=400.0))
    assert isinstance(hungry, Failure) and "as when memory runs out" in hungry.reason, hungry
    assert isinstance(modest, Measurement)
    assert "Out of memory: Killed process" in reached.ssh("/bin/busybox dmesg", user="root").stdout


# ---------------------------------------------------------------- a board that is lost


@pytest.fixture
def alert(monkeypatch: pytest.MonkeyPatch) -> None:
    """A silent board is given up after nine seconds, not thirty."""
    monkeypatch.setitem(ssh._OPTIONS, "ServerAliveInterval", "3")


@pytest.mark.usefixtures("alert")
@pytest.mark.parametrize(
    ("lose", "bring_back"),
    [
        (EmulatedBoard.unplug, EmulatedBoard.plug),
        (EmulatedBoard.freeze, EmulatedBoard.thaw),
        (EmulatedBoard.cut_power, EmulatedBoard.start),
    ],
)
def test_a_board_that_is_lost_in_mid_run_is_measured_when_it_is_back(
    reached: EmulatedBoard,
    tmp_path: Path,
    lose: Callable[[EmulatedBoard], None],
    bring_back: Callable[[EmulatedBoard], None],
) -> None:
    model = write_onnx(tmp_path / "lost.onnx", lose.__name__)

    def wait_and_lose() -> None:
        with reached.once_measuring(Blob.read(model).digest) as seen:
            assert seen.wait(timeout=300) == 0
        lose(reached)

    saboteur = threading.Thread(target=wait_and_lose)
    saboteur.start()
    with watched(lambda: bring_back(reached)) as tasks:
        found = measured(model, tmp_path, budget=STEADY)
    saboteur.join()
    assert tasks[:4] == ["probe", "bench", "lost", "bench"]
    assert isinstance(found, Measurement) and found.validity.valid, found


# ---------------------------------------------------------------- figures that repeat


def test_measurements_on_a_clock_that_counts_instructions_agree_within_a_hundredth(
    reached: EmulatedBoard, tmp_path: Path
) -> None:
    thrice = DEVICE.model_copy(update={"repeats": 3})
    reached.ssh("/bin/busybox sync")
    reached.cut_power()
    reached.start(counting=True)
    try:
        model, runs = write_onnx(tmp_path / "c.onnx"), replace(SHORT, runs=256)
        (found,) = measure(thrice, [job(model)], tmp_path, budget=runs)
    finally:
        reached.cut_power()
        reached.start()
    assert isinstance(found, Measurement), found
    # The bounds hold the median of each of the three processes.
    assert found.p50_ms.high <= 1.01 * found.p50_ms.low, found
