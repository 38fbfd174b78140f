"""A whole study on an emulated 64-bit ARM board: from nothing, through faults, to nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from devices._contract import Blob, DeviceError
from devices.transport.ssh import SshTransport
from ktbench.boards import look_at, set_up, take_down
from ktbench.measure import measure
from ktbench.records import DeviceSpec, Failure, Measurement
from ktbench.results import ResultsFolder
from tests.boards import SHORT, images, job, lacking, logits
from tests.emulated import EmulatedBoard, running_board
from tests.emulated_image import folder, missing
from tests.running import Commands, write_matrix

pytest_plugins = ("tests.board_fixtures", "tests.running_fixtures")
pytestmark = pytest.mark.timeout(1500)

WANTED = "KTBENCH_EMULATED_BOARD"
LISTING = 'cd ~; python3 -c "import os; print(*sorted(os.path.join(d, f) for d, ds, fs in ' + (
    "os.walk('.') for f in ds + fs), sep=chr(10))\""
)
DEVICE = DeviceSpec(profile="emulated_aarch64", host="board", name="emulated", repeats=1)


@pytest.fixture(scope="module")
def arm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmulatedBoard]:
    if os.environ.get(WANTED) != "1":
        pytest.skip(f"an emulated board takes minutes: set {WANTED}=1")
    reason = missing()
    if reason:
        lacking(f"no emulated board: {reason}")
    with running_board(tmp_path_factory.mktemp("board")) as board:
        yield board


@pytest.fixture
def reached(arm: EmulatedBoard, monkeypatch: pytest.MonkeyPatch) -> EmulatedBoard:
    monkeypatch.setenv("KTBENCH_SSH_CONFIG", str(arm.config))
    return arm


@pytest.fixture(scope="module")
def ready(arm: EmulatedBoard) -> Iterator[EmulatedBoard]:
    """The board with its runtimes, set up from nothing; afterwards nothing of ours is left."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KTBENCH_SSH_CONFIG", str(arm.config))
        patch.setenv("KTBENCH_CACHE", str(folder().parent))
        before = arm.ssh(LISTING).stdout
        transport = SshTransport("board")
        assert look_at(transport).environment is None
        set_up(transport, "board", lambda line: None)
        transport.close()
        yield arm
        transport = SshTransport("board")
        take_down(transport, "board")
        transport.close()
        assert arm.ssh(LISTING).stdout == before


def tried(onnx_model: Path, folder: Path, **changes: Any) -> Measurement | Failure:
    """One short measurement of a linear model on the board."""
    values = {"inputs": images(16), "expected": logits(images(16)), **changes}
    (found,) = measure(DEVICE, [job(onnx_model, **values)], folder, budget=SHORT)
    return found


def test_a_matrix_is_measured_on_the_board_and_right_there(
    ready: EmulatedBoard, reached: EmulatedBoard, ktbench: Commands, tmp_path: Path
) -> None:
    matrix = write_matrix(
        tmp_path / "m.yaml",
        teachers=[],
        methods=["none"],
        students=[{"resnet8": {"width": 0.25}}, {"resnet8": {"width": 0.5}}],
        exports={"formats": ["onnx", "tflite"], "precisions": ["fp32", "int8"]},
        devices=[{"emulated_aarch64": {"name": "arm", "host": "board", "repeats": 1}}],
    )
    ktbench.report = True
    answer = ktbench("run", matrix, "--results", tmp_path / "r")
    assert answer.code == 0, answer.err
    results = ResultsFolder(tmp_path / "r")
    found = {(m.cell_key, m.export): m for m in results.measurements()}
    artifacts = [a for result in results.results() for a in result.artifacts]
    assert len(found) == len(artifacts) == 8
    for artifact in artifacts:
        measured = found[artifact.cell_key, artifact.export]
        assert measured.origin == "emulated" and measured.validity.valid
        assert measured.test_inputs == 40
        assert measured.test_accuracy == pytest.approx(artifact.test_accuracy, abs=1 / 40 + 1e-9)
    page = (tmp_path / "r" / "report" / "report.md").read_text()
    assert "emulated" in page


def test_a_full_disk_is_told_and_costs_nothing(
    ready: EmulatedBoard, reached: EmulatedBoard, onnx_model: Path, tmp_path: Path
) -> None:
    fill = "dd if=/dev/zero of=/home/pi/filler bs=1M 2>&1; df -k / | tail -1"
    reached.ssh(fill)
    try:
        transport = SshTransport("board")
        with pytest.raises(DeviceError, match="No space left"):
            transport.run({"task": "probe"}, [Blob.of(bytes(1_000_000))], 60)
        transport.close()
    finally:
        reached.ssh("rm -f /home/pi/filler")
    assert isinstance(tried(onnx_model, tmp_path), Measurement)
