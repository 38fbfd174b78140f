"""What a run lacks is told before its first training step, all of it at once."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from ktbench.results import load_results
from ktbench.system.machine import usable_cores
from tests.support.boards import SshBoard
from tests.support.running import Commands, write_matrix

EXPORTS: dict[str, Any] = {"formats": "onnx", "precisions": "fp32"}


@pytest.mark.slow
def test_all_that_a_run_lacks_is_told_at_once_and_nothing_is_trained(
    ktbench: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pictures").mkdir()
    for name in ("ai_edge_quantizer", "ray"):
        monkeypatch.setitem(sys.modules, name, None)  # as where it is not installed
    matrix = write_matrix(
        tmp_path / "m.yaml",
        numeric={"threads": usable_cores() + 1},
        exports={"formats": ["onnx", "tflite"]},
        teacher={"source": "pool", "workers": 1},
    )
    answer = ktbench("run", matrix, "--results", "r", "--quiet")
    assert answer.code == 2
    lines = answer.err.splitlines()
    assert len(lines) == 2
    assert f"numeric.threads: {usable_cores() + 1} are more than the" in lines[0]
    assert lines[1] == (
        "packages are not installed (ai-edge-quantizer for tflite exports; "
        "ray for a pool of teachers): pip install 'ktbench[ray,tflite]'"
    )
    assert not (tmp_path / "r").exists()


@pytest.mark.slow
def test_a_board_that_does_not_answer_is_told_before_training_and_the_run_goes_on(
    ktbench: Commands, board: SshBoard, tmp_path: Path
) -> None:
    matrix = write_matrix(
        tmp_path / "m.yaml",
        methods=["none"],
        teachers=[],
        exports=EXPORTS,
        devices=[{"ssh": {"name": "pi", "host": "nowhere", "repeats": 1}}],
    )
    answer = ktbench("run", matrix, "--results", "r")
    lines = answer.err.splitlines()
    warned = next(n for n, line in enumerate(lines) if line.startswith("warning: pi cannot be"))
    assert "cannot reach nowhere" in lines[warned]
    assert warned < next(n for n, line in enumerate(lines) if line.startswith("students: "))
    assert set(load_results(tmp_path / "r").cells["status"]) == {"done"}


@pytest.mark.slow
def test_strict_does_not_begin_while_a_board_does_not_answer(
    ktbench: Commands, board: SshBoard, tmp_path: Path
) -> None:
    devices = [
        {"ssh": {"name": "pi", "host": "nowhere"}},
        {"ssh": {"name": "other", "host": "stranger"}},
    ]
    matrix = write_matrix(
        tmp_path / "m.yaml", methods=["none"], teachers=[], exports=EXPORTS, devices=devices
    )
    answer = ktbench("run", matrix, "--results", "r", "--quiet", "--strict")
    assert answer.code == 2
    first, second = answer.err.splitlines()
    assert "pi cannot be measured now: cannot reach nowhere" in first
    assert "other cannot be measured now: the host key" in second
    assert not (tmp_path / "r").exists()


@pytest.mark.slow
def test_a_disk_that_cannot_hold_the_weights_is_told_before_training(
    ktbench: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = os.statvfs(tmp_path)
    cells = disk.f_bavail * disk.f_frsize // (4 * 70_000) + 1_000  # resnet8 has more parameters
    matrix = write_matrix(
        tmp_path / "m.yaml", students=["resnet8"], methods=["none"], teachers=[], seeds=3
    )
    monkeypatch.setattr("ktbench.runner.preflight.SPARE_BYTES", cells * 4 * 70_000)
    answer = ktbench("run", matrix, "--results", "r", "--quiet")
    assert answer.code == 2 and answer.error.startswith("ktbench: r: no space left on the disk")
    assert "free some" in answer.error and not (tmp_path / "r").exists()


@pytest.mark.slow
def test_a_run_that_has_nothing_left_to_train_asks_no_board(
    ktbench: Commands, board: SshBoard, tmp_path: Path
) -> None:
    changes: dict[str, Any] = {"methods": ["none"], "teachers": [], "exports": EXPORTS}
    assert ktbench("run", write_matrix(tmp_path / "m.yaml", **changes), "--results", "r").code == 0
    devices = [{"ssh": {"name": "pi", "host": "nowhere"}}]
    matrix = write_matrix(tmp_path / "m.yaml", **changes, devices=devices)
    answer = ktbench("run", matrix, "--results", "r")
    assert answer.code == 1 and "warning" not in answer.err
