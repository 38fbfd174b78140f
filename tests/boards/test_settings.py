"""Governor and power mode: set while a board is measured, put back however that ends."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ktbench import catalogue
from ktbench.boards import take_down
from ktbench.devices.agent import hold, settings
from ktbench.devices.agent.board import Board
from ktbench.devices.agent.protocol import TaskError
from ktbench.devices.transport import _exchange, open_transport
from ktbench.measure import check, measure
from ktbench.records import DeviceSpec, Failure, Measurement
from tests.support.boards import SHORT, SshBoard, agent_of, job
from tests.support.sensors import governors, jetson_modes, programs

BEFORE = {"cpu0": "ondemand", "cpu1": "powersave"}
TEE = shutil.which("tee", path=os.defpath)
FAST = {"cpu0": "performance", "cpu1": "performance"}


@pytest.fixture
def store(tmp_path: Path) -> str:
    (tmp_path / "store").mkdir()
    return str(tmp_path / "store")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A board of two processors with a governor each."""
    return governors(tmp_path / "root", BEFORE)


def now(root: Path) -> dict[str, str]:
    return settings.Governors(Board(str(root))).now()


def settle(store: str, root: Path, **wanted: str) -> None:
    settings.settle(store, wanted, Board(str(root)))


def test_a_governor_is_set_on_every_processor_and_each_gets_its_own_back(
    store: str, root: Path
) -> None:
    settle(store, root, governor="performance")
    assert now(root) == FAST and settings.left(store) == {"governor": "performance"}
    settle(store, root, governor="performance")
    settle(store, root, governor="powersave")
    assert set(now(root).values()) == {"powersave"}
    settle(store, root)
    assert now(root) == BEFORE and not any(Path(store).iterdir())


def test_what_somebody_has_changed_since_is_left_as_it_is(store: str, root: Path) -> None:
    settle(store, root, governor="performance")
    governors(root, {"cpu1": "schedutil"})
    settle(store, root)
    assert now(root) == {"cpu0": "ondemand", "cpu1": "schedutil"} and not any(Path(store).iterdir())


def test_a_governor_that_the_board_has_not_is_refused_with_those_that_it_has(
    store: str, root: Path
) -> None:
    with pytest.raises(TaskError, match=r"no governor turbo: choose one of .*performance"):
        settle(store, root, governor="turbo")
    with pytest.raises(TaskError, match="no governors to set: leave `governor` out"):
        settle(store, root / "nothing", governor="performance")
    assert now(root) == BEFORE and not any(Path(store).iterdir())


@pytest.fixture
def no_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user who may not write to sysfs; tests may run as root."""
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setattr("os.access", lambda path, mode: False)
    monkeypatch.setattr(settings, "_write", lambda path, text: False)


def test_without_a_right_to_it_nothing_is_changed_and_the_command_to_allow_is_told(
    no_root: None, store: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs(tmp_path / "bin", monkeypatch, sudo="exit 1")
    board = Board(str(root))
    said = "the governor cannot be set: `sudo tee .*scaling_governor` wants a password"
    assert settings.problem({"governor": "powersave"}, board) is not None
    with pytest.raises(TaskError, match=said):
        settle(store, root, governor="powersave")
    assert now(root) == BEFORE and not any(Path(store).iterdir())


def test_sudo_without_a_password_serves_where_files_cannot_be_written(
    no_root: None, store: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = f'[ "$1" = -n ] || exit 1; [ "$2" = -l ] && exit 0; shift 2; exec {TEE} "$@"'
    programs(tmp_path / "bin", monkeypatch, sudo=body)
    settle(store, root, governor="performance")
    assert now(root) == FAST
    settle(store, root)
    assert now(root) == BEFORE


# ---------------------------------------------------------------- power modes


def test_a_power_mode_is_entered_by_the_number_that_the_board_gives_its_name(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = jetson_modes(tmp_path, monkeypatch, {"MAXN": 0, "15W": 2, "MAXN_SUPER": 4}, "15W")
    settle(store, root, power_mode="maxn super")
    assert Board(str(root)).power_mode() == "MAXN_SUPER"
    settle(store, root)
    assert Board(str(root)).power_mode() == "15W" and not any(Path(store).iterdir())
    with pytest.raises(TaskError, match="no power mode 40W: choose one of 15W, MAXN, MAXN_SUPER"):
        settle(store, root, power_mode="40W")


def test_a_power_mode_that_wants_a_restart_is_told_and_the_governor_put_back(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = jetson_modes(tmp_path, monkeypatch, {"MAXN": 0, "7W": 1}, "7W", takes=False)
    governors(root, BEFORE)
    settle(store, root, governor="performance")
    with pytest.raises(TaskError, match=r"stays in power mode 7W: .*-m 0` may want a restart"):
        settle(store, root, governor="performance", power_mode="MAXN")
    assert now(root) == BEFORE and not any(Path(store).iterdir())


def test_an_agent_killed_while_it_changes_the_mode_leaves_what_was_there_on_the_disk(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = jetson_modes(tmp_path, monkeypatch, {"MAXN": 0, "15W": 2}, "15W", kills=True)
    governors(root, BEFORE)
    text = (
        "import sys; from ktbench.devices.agent import settings\n"
        "from ktbench.devices.agent.board import Board\n"
        "wanted = {'governor': 'performance', 'power_mode': 'MAXN'}\n"
        "settings.settle(sys.argv[1], wanted, Board(sys.argv[2]))"
    )
    killed = subprocess.run([sys.executable, "-c", text, store, root], cwd=Path.cwd())
    assert killed.returncode == -signal.SIGKILL
    assert Board(str(root)).power_mode() == "MAXN"
    jetson_modes(tmp_path, monkeypatch, {"MAXN": 0, "15W": 2}, "MAXN")
    settle(store, root)
    assert Board(str(root)).power_mode() == "15W" and now(root) == BEFORE


@pytest.mark.parametrize("text", ['{"governor": {"bef', "[]", '{"governor": {"set": []}}', "7"])
def test_a_file_that_makes_no_sense_changes_nothing(store: str, root: Path, text: str) -> None:
    Path(store, settings.NAME).write_text(text)
    settle(store, root)
    assert now(root) == BEFORE


def test_a_file_that_names_another_place_is_written_nowhere(store: str, root: Path) -> None:
    settle(store, root, governor="performance")
    path = Path(store, settings.NAME)
    found = json.loads(path.read_text())
    found["governor"]["before"] = {"../../../cpu0": "powersave"}
    path.write_text(json.dumps(found))
    settle(store, root)
    assert now(root) == FAST


# ---------------------------------------------------------------- over SSH


@pytest.fixture
def fake_sysfs(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Agents that take a folder for their board's root."""
    agent_of(
        f"from agent import board\nboard.Board.__init__.__defaults__ = ({str(root)!r},)\n",
        monkeypatch,
    )
    return root


def _until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, f"waited in vain: {what}"
        time.sleep(0.05)


@pytest.mark.slow
def test_a_board_is_measured_with_its_settings_and_has_its_own_afterwards(
    fake_sysfs: Path, board: SshBoard, onnx_model: Path, tmp_path: Path
) -> None:
    device = board.spec(governor="performance", repeats=2)
    (found,) = measure(device, [job(onnx_model)], tmp_path, budget=SHORT)
    assert isinstance(found, Measurement) and found.validity.reasons == ()
    assert found.state_before["governor"] == "performance"
    assert now(fake_sysfs) == BEFORE and not (board.store / settings.NAME).exists()


@pytest.mark.slow
def test_a_check_tells_what_cannot_be_set_and_sets_nothing(
    fake_sysfs: Path, board: SshBoard, onnx_model: Path, tmp_path: Path
) -> None:
    assert check(board.spec(governor="performance")).ok
    assert now(fake_sysfs) == BEFORE
    device = board.spec(governor="turbo")
    assert "no governor turbo" in " ".join(check(device).problems)
    (found,) = measure(device, [job(onnx_model)], tmp_path, budget=SHORT)
    assert isinstance(found, Failure) and "no governor turbo" in found.reason
    here = DeviceSpec(profile="local", name="here", governor="performance")
    assert "boards over SSH alone" in check(here).problems[0]


@pytest.mark.slow
def test_settings_come_back_when_the_host_is_killed_in_mid_measurement(
    fake_sysfs: Path, board: SshBoard, onnx_model: Path, tmp_path: Path
) -> None:
    text = """
import sys
from pathlib import Path
from ktbench.devices.transport import _exchange
from ktbench.measure import Budget, measure
from ktbench.records import DeviceSpec
from tests.support.boards import job
_exchange._STUB = sys.argv[1]
device = DeviceSpec.model_validate_json(sys.argv[2])
list(measure(device, [job(Path(sys.argv[3]))], Path(sys.argv[4]), budget=Budget(36, 60.0)))
"""
    device = board.spec(governor="performance").model_dump_json()
    words = [_exchange._STUB, device, str(onnx_model), str(tmp_path)]
    host = subprocess.Popen([sys.executable, "-c", text, *words])
    _until(lambda: now(fake_sysfs) == FAST, "the governor")
    host.kill()
    host.wait()
    _until(lambda: now(fake_sysfs) == BEFORE, "the governor of before")
    _until(lambda: not (board.store / settings.NAME).exists(), "the end of the file")
    (board.store / hold.NAME).unlink()  # nobody waits for the lease of a killed run


@pytest.mark.slow
@pytest.mark.parametrize("then", ["check", "remove"])
def test_settings_come_back_after_a_crash_with_the_next_task_or_the_removal(
    fake_sysfs: Path, board: SshBoard, then: str
) -> None:
    device = board.spec(governor="performance")
    assert check(device).ok
    settings.settle(str(board.store), device.settings, Board(str(fake_sysfs)))
    assert now(fake_sysfs) == FAST
    if then == "check":
        assert check(device).ok
    else:
        way = open_transport(catalogue.device("ssh"), "board", sys.executable)
        take_down(way, "board")
        way.close()
        assert not board.store.exists()
    assert now(fake_sysfs) == BEFORE and not (board.store / settings.NAME).exists()
