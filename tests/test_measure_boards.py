"""Measuring over SSH, and with the runtime of older boards; both are real."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ktbench.measure import check, measure, measure_file
from ktbench.records import DeviceSpec, Failure, KtbenchError, Measurement
from tests.boards import SHORT, SshBoard, images, job, logits, write_onnx

pytest_plugins = ("tests.board_fixtures",)


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


def test_a_models_name_reaches_no_shell(board: SshBoard, tmp_path: Path) -> None:
    folder = tmp_path / "; touch pwned; $(touch pwned) `touch pwned` 'x"
    model = write_onnx(folder / "-oProxyCommand=touch pwned\n.onnx")
    (found,) = measure(board.spec(), [job(model)], tmp_path, budget=SHORT)
    assert isinstance(found, Measurement)
    assert not list(tmp_path.rglob("pwned")) and not (Path.home() / "pwned").exists()


def test_a_board_without_the_runtime_fails_every_job_and_says_what_to_install(
    board: SshBoard, bare_python: Path, onnx_model: Path, tmp_path: Path
) -> None:
    device = board.spec(python=str(bare_python))
    (found,) = measure(device, [job(onnx_model)], tmp_path, budget=SHORT)
    assert isinstance(found, Failure)
    assert "numpy" in found.reason and "\n" not in found.reason
    assert "no runtime is installed" in " ".join(check(device).problems)


@pytest.mark.parametrize("host", ["impostor", "nowhere", "-oProxyCommand=true"])
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


def test_a_lost_python_is_told_over_ssh(board: SshBoard) -> None:
    missing = board.spec(python=sys.executable + "-gone")
    assert "cannot start the interpreter" in check(missing).problems[0]
