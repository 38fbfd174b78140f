"""Whose a board is: leases, and what is left of them by a dead host or a wrong clock."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from ktbench.boards import look_at
from ktbench.devices._contract import DeviceError, Lease
from ktbench.devices.agent import hold, protocol
from ktbench.measure import measure
from ktbench.records import Failure, Measurement
from tests.support.boards import SHORT, HomeBoard, SshBoard, job


def lease(owner: str, seconds: float = 60) -> dict[str, Any]:
    return Lease(owner, f"{owner}@desk", seconds).task()


def probing(owner: str, seconds: float = 60) -> dict[str, Any]:
    return {"task": "probe", "lease": lease(owner, seconds)}


@pytest.mark.slow
def test_a_board_is_one_owners_until_it_is_released(bare: HomeBoard) -> None:
    bare.run(probing("ann"))
    with pytest.raises(DeviceError, match=r"held by ann@desk \(for \d+ s at least\)"):
        bare.run(probing("bob"))
    bare.run(probing("ann"))
    assert look_at(bare).holder.holder == "ann@desk"  # type: ignore[union-attr]
    bare.run({"task": "release", "lease": lease("ann")})
    bare.run(probing("bob"))


@pytest.mark.slow
def test_a_lease_runs_out_by_the_boards_clock_since_it_started(bare: HomeBoard) -> None:
    bare.run(probing("ann", seconds=0.0))
    bare.run(probing("bob"))
    held = bare.store / hold.NAME
    held.write_text(json.dumps({**json.loads(held.read_text()), "boot": "another"}))
    bare.run(probing("ann"))  # after a restart nobody holds it


@pytest.mark.slow
def test_a_check_by_another_user_says_who_holds_the_board_and_takes_nothing(
    bare: HomeBoard,
) -> None:
    bare.run(probing("ann"))
    assert bare.run({"task": "probe"})["holder"]["holder"] == "ann@desk"
    assert 0 < bare.run({"task": "probe"})["holder"]["seconds"] <= 60
    bare.run({"task": "release", "lease": lease("ann")})
    assert bare.run({"task": "probe"})["holder"] is None


def let_go(held: hold.Hold) -> None:
    """End a task's hold on the board as the end of its process does."""
    os.close(held._handle)


@pytest.mark.parametrize("skew_s", [-86400.0, 86400.0 * 365])
def test_a_boards_clock_that_is_wrong_or_set_anew_neither_ends_nor_prolongs_a_lease(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, skew_s: float
) -> None:
    real, steady = time.time, time.monotonic
    let_go(hold.take(str(tmp_path), lease("bob")))
    monkeypatch.setattr(time, "time", lambda: real() + skew_s)
    os.utime(tmp_path / hold.NAME, (real() + skew_s, real() + skew_s))
    with pytest.raises(protocol.TaskError, match="held by bob@desk"):
        hold.take(str(tmp_path), lease("ann"))
    monkeypatch.setattr(time, "monotonic", lambda: steady() + 61)
    let_go(hold.take(str(tmp_path), lease("ann")))


@pytest.mark.slow
def test_a_lock_that_a_dead_host_left_is_taken_over_once_its_lease_has_run_out(
    tmp_path: Path,
) -> None:
    text = (
        "import sys, time; from ktbench.devices.agent import hold\n"
        f"held = hold.take({str(tmp_path)!r}, {lease('bob', 0.0)!r})\n"
        "print('held', flush=True); sys.stdin.readline()\n"
        f"held._lease['seconds'] = 3.0; held.extend(); print('extended', flush=True)\n"
        "time.sleep(600)"
    )
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    host = subprocess.Popen([sys.executable, "-c", text], **pipes)
    assert host.stdin is not None and host.stdout is not None
    assert host.stdout.readline() == "held\n"
    with pytest.raises(protocol.TaskError, match="held by bob@desk"):  # its date is over
        hold.take(str(tmp_path), lease("ann"))
    host.stdin.write("\n")
    host.stdin.flush()
    assert host.stdout.readline() == "extended\n"
    host.kill()
    host.communicate()
    with pytest.raises(protocol.TaskError, match=r"held by bob@desk \(for \d s at least\): wait"):
        hold.take(str(tmp_path), lease("ann"))
    time.sleep(3.0)
    held = hold.take(str(tmp_path), lease("ann"))
    assert hold.holder(str(tmp_path))["holder"] == "ann@desk"  # type: ignore[index]
    let_go(held)


@pytest.mark.slow
def test_a_lease_file_that_a_loss_of_power_cut_short_holds_nobody_off(bare: HomeBoard) -> None:
    bare.run(probing("ann"))
    (bare.store / hold.NAME).write_text('{"owner": "an')
    bare.run(probing("bob"))


@pytest.mark.slow
def test_an_agent_that_its_host_lost_is_ended_by_the_next_task_of_the_same_owner(
    tmp_path: Path,
) -> None:
    text = (
        "import sys, time; from ktbench.devices.agent import hold\n"
        f"held = hold.take({str(tmp_path)!r}, {lease('ann')!r}); print('held', flush=True)\n"
        "time.sleep(600)"
    )
    lost = subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE)
    assert lost.stdout is not None and lost.stdout.readline() == b"held\n"
    with pytest.raises(protocol.TaskError, match="held by ann@desk"):
        hold.take(str(tmp_path), lease("bob"))
    reaper = threading.Thread(target=lost.wait)
    reaper.start()
    hold.take(str(tmp_path), lease("ann")).release()
    reaper.join(timeout=10)
    assert lost.returncode == -9
    lost.stdout.close()


@pytest.mark.slow
def test_a_run_finds_a_board_that_another_user_holds_and_says_who(
    board: SshBoard, onnx_model: Path, tmp_path: Path
) -> None:
    board.store.mkdir(parents=True, exist_ok=True)
    held = hold.take(str(board.store), lease("bob"))
    try:
        found = list(measure(board.spec(), [job(onnx_model)] * 2, tmp_path, budget=SHORT))
    finally:
        held.release()
        os.close(held._handle)
    assert all(isinstance(f, Failure) and "held by bob@desk" in f.reason for f in found)
    (again,) = measure(board.spec(), [job(onnx_model)], tmp_path, budget=SHORT)
    assert isinstance(again, Measurement)
    assert hold.holder(str(board.store)) is None
