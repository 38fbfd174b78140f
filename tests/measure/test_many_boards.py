"""Several boards in one run, and what their answers to the test set mean."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from ktbench.measure import BoardAccuracy
from ktbench.records import DeviceSpec, ExportSpec, Failure, KtbenchError, StorageError
from ktbench.runner.measurement_wave import wrong
from ktbench.runner.parallel_devices import Outcome, measure_devices
from ktbench.runner.progress import Silent, Watcher


def board(name: str, host: str | None = None) -> DeviceSpec:
    return DeviceSpec(profile="ssh", name=name, host=host or name)


def outcome(device: DeviceSpec, reason: str) -> Failure:
    return Failure(stage="measure", what=device.name, reason=reason)


def test_boards_are_measured_at_the_same_time_and_this_machine_before_them() -> None:
    meeting = threading.Barrier(2)
    begun: list[str] = []

    def measure(device: DeviceSpec, watcher: Watcher) -> Iterator[Outcome]:
        begun.append(device.name)
        if device.profile == "ssh":
            meeting.wait(timeout=30)
        watcher.advance(1)
        yield outcome(device, "done")

    local = DeviceSpec(profile="local", name="here")
    found = list(measure_devices([board("a"), local, board("b")], measure, Silent()))
    assert {f.what for f in found} == {"a", "b", "here"}  # type: ignore[union-attr]
    assert begun[0] == "here"


def test_two_devices_on_one_host_take_turns() -> None:
    busy = threading.Lock()

    def measure(device: DeviceSpec, watcher: Watcher) -> Iterator[Outcome]:
        assert device.host == "other" or busy.acquire(blocking=False)
        yield outcome(device, "done")
        if device.host == "pi":
            busy.release()

    devices = [board("one", "pi"), board("two", "pi"), board("three", "other")]
    assert len(list(measure_devices(devices, measure, Silent()))) == 3


def test_a_board_that_fails_leaves_the_others_alone_and_a_full_disk_ends_the_run() -> None:
    def measure(device: DeviceSpec, watcher: Watcher) -> Iterator[Outcome]:
        if device.name == "bad":
            raise KtbenchError("no such thing")
        if device.name == "full":
            raise StorageError("no space left")
        yield outcome(device, "done")

    found = list(measure_devices([board("good"), board("bad")], measure, Silent()))
    assert {(f.what, f.reason) for f in found} == {  # type: ignore[union-attr]
        ("good", "done"),
        ("bad", "no such thing"),
    }
    with pytest.raises(StorageError, match="no space left"):
        list(measure_devices([board("good"), board("full")], measure, Silent()))


def answers(agreement: float, inputs: int) -> BoardAccuracy:
    export = ExportSpec(format="onnx")
    where = ("d", "c", export, "x", "onnxruntime", "1", "CPU")
    return BoardAccuracy(*where, inputs=inputs, accuracy=0.5, agreement=agreement)


def test_answers_on_the_board_may_miss_the_promise_by_chance_and_no_more() -> None:
    assert wrong(answers(0.98, 40), promised=0.99) is None
    assert wrong(answers(0.97, 10_000), promised=0.99) is not None
    assert "only 10.0% of 1000 test samples" in (wrong(answers(0.10, 1000), promised=0.95) or "")
