"""A whole matrix on an emulated 64-bit ARM board, set up from nothing and left as it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from ktbench.results import ResultsFolder
from tests.emulated import EmulatedBoard
from tests.running import Commands, write_matrix

pytest_plugins = ("tests.emulated_fixtures", "tests.running_fixtures")
pytestmark = pytest.mark.timeout(1500)


def test_a_matrix_is_measured_on_the_board_and_right_there(
    reached: EmulatedBoard, ktbench: Commands, tmp_path: Path
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
