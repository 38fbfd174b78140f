"""What only a machine of its own can suffer: unplugged, frozen, without power, memory or space."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from devices._contract import Blob, DeviceError
from devices.transport import ssh
from devices.transport.ssh import SshTransport
from ktbench.measure import measure
from ktbench.records import DeviceSpec, Failure, Measurement
from ktbench.results import ResultsFolder
from tests.boards import SHORT, images, job, logits, write_onnx
from tests.emulated import LONG, EmulatedBoard
from tests.running import Commands, write_matrix

pytest_plugins = ("tests.emulated_fixtures", "tests.running_fixtures")
pytestmark = pytest.mark.timeout(1500)

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
            with pytest.raises(DeviceError, match="No space left"):
                way.run({"task": "look"}, [blob], 60)
        finally:
            reached.ssh("rm -f /home/pi/filler /home/pi/rest")
        assert reached.ssh(store).stdout == before and "held.json" in before
        way.run({"task": "look"}, [blob], 60)


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


def nothing() -> None:
    """What there is to do in most cases."""


@contextmanager
def watched(
    on_loss: Callable[[], None] = nothing, on_second_bench: Callable[[], None] = nothing
) -> Iterator[list[str]]:
    """The tasks that boards are given over SSH; of a series, each of its own.

    `on_loss` is called when the first one is lost, `on_second_bench` in a series' second.
    """
    tasks: list[str] = []
    run, series = SshTransport.run, SshTransport.series

    def look(error: DeviceError) -> None:
        if error.lost and "lost" not in tasks:
            tasks.append("lost")
            on_loss()

    def one(
        way: SshTransport, task: dict[str, Any], blobs: Sequence[Blob], limit_s: float
    ) -> dict[str, Any]:
        tasks.append(task["task"])
        try:
            return run(way, task, blobs, limit_s)
        except DeviceError as error:
            look(error)
            raise

    def several(
        way: SshTransport, task: dict[str, Any], blobs: Sequence[Blob], limits: Sequence[float]
    ) -> Iterator[dict[str, Any] | DeviceError]:
        tasks.extend(each["task"] for each in task["tasks"])
        try:
            with closing(series(way, task, blobs, limits)) as answers:
                for number, answer in enumerate(answers):
                    if number == 0 and len(limits) > 1:
                        threading.Timer(1.0, on_second_bench).start()
                    yield answer
        except DeviceError as error:
            look(error)
            raise

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SshTransport, "run", one)
        patch.setattr(SshTransport, "series", several)
        yield tasks


@pytest.mark.usefixtures("alert")
@pytest.mark.parametrize(
    ("lose", "bring_back"),
    [
        (EmulatedBoard.unplug, EmulatedBoard.plug),
        (EmulatedBoard.freeze, EmulatedBoard.thaw),
        pytest.param(EmulatedBoard.cut_power, EmulatedBoard.start, marks=LONG),
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


def test_a_power_cut_costs_the_artifact_at_work_and_a_later_run_measures_just_that(
    reached: EmulatedBoard, ktbench: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    matrix = write_matrix(
        tmp_path / "m.yaml",
        teachers=[],
        methods=["none"],
        exports={"formats": "onnx", "precisions": ["fp32", "int8"]},
        devices=[{"emulated_aarch64": {"name": "arm", "host": "board", "repeats": 1}}],
    )
    monkeypatch.setattr("ktbench.measure.patience.WAITS_S", ())
    with watched(on_second_bench=reached.cut_power):
        cut = ktbench("run", matrix, "--results", "r", "--quiet")
    reached.start()
    (line,) = cut.err.splitlines()
    assert cut.code == 1 and line.startswith("  not measured: ") and "cannot reach board" in line
    (kept,) = ResultsFolder(tmp_path / "r").measurements()
    with watched() as tasks:
        whole = ktbench("run", matrix, "--results", "r", "--quiet")
    assert whole.code == 0 and tasks.count("bench") == 1
    found = list(ResultsFolder(tmp_path / "r").measurements())
    assert len(found) == 2 and kept in found and all(m.validity.valid for m in found)


# ---------------------------------------------------------------- figures that repeat


@LONG
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
