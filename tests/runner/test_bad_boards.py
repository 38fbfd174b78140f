"""A board that cannot be had, or cannot measure, costs a run its measurements and nothing else."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from ktbench.results import load_results
from tests.support.boards import SshBoard
from tests.support.running import Commands, started, write_matrix

pytestmark = pytest.mark.slow

SOME_FAILED = 1


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with exports, which only wants measuring."""
    folder = tmp_path_factory.mktemp("exported")
    matrix = _on_board(folder, [])
    done = started("run", matrix, "--results", folder / "r", cache=folder / "cache")
    _, told = done.communicate()
    assert done.returncode == 0, told
    return folder


def _on_board(folder: Path, devices: list[Any]) -> Path:
    return write_matrix(
        folder / "m.yaml",
        methods=["none"],
        teachers=[],
        exports={"formats": "onnx", "precisions": "fp32"},
        devices=devices,
    )


def _assert_not_measured(
    ktbench: Commands, place: Path, device: dict[str, Any], *parts: str
) -> None:
    """Every cell stays as it was; the device's trouble is in the folder and in one line."""
    matrix = _on_board(place, [{"ssh": {"name": "pi", "repeats": 1, **device}}])
    answer = ktbench("run", matrix, "--results", "r", "--quiet")
    assert answer.code == SOME_FAILED, answer.err
    [line] = answer.err.splitlines()
    assert line.startswith("  not measured: ") and "pi" in line
    for part in parts:
        assert part in line
    found = load_results(place / "r")
    assert set(found.cells["status"]) == {"done"} and not len(found.measurements)
    assert [f.stage for f in found.failures] == ["measure"] and found.failures[0].reason in line


@pytest.mark.parametrize(
    ("host", "says"),
    [
        ("nowhere", "cannot reach nowhere"),
        ("impostor", "host key"),
        ("stranger", "host key"),
        ("locked", "refuses the login"),
    ],
)
def test_a_board_that_cannot_be_had_leaves_the_cells_done_and_is_told(
    ktbench: Commands, board: SshBoard, exported: Path, tmp_path: Path, host: str, says: str
) -> None:
    shutil.copytree(exported, tmp_path, dirs_exist_ok=True)
    _assert_not_measured(ktbench, tmp_path, {"host": host, "python": sys.executable}, says)


def test_a_board_without_the_runtime_is_told_with_what_to_install(
    ktbench: Commands, board: SshBoard, bare_python: Path, exported: Path, tmp_path: Path
) -> None:
    shutil.copytree(exported, tmp_path, dirs_exist_ok=True)
    _assert_not_measured(ktbench, tmp_path, {"host": "board", "python": str(bare_python)}, "numpy")
    matrix = _on_board(
        tmp_path, [{"ssh": {"name": "pi", "host": "board", "python": sys.executable, "repeats": 1}}]
    )
    answer = ktbench("run", matrix, "--results", "r")
    assert answer.code == 0 and "1 measurement" in answer.err
