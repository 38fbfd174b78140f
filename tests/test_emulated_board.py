"""A whole matrix on an emulated 64-bit ARM board, set up from nothing and left as it was."""

from __future__ import annotations

import re
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
    assert_labelled(tmp_path / "r" / "report")


def assert_labelled(report: Path) -> None:
    """Every column of latencies, on the page and in its tables, says that they are emulated."""
    page = (report / "report.md").read_text()
    columns = re.findall(r"(?:p\d\d|load|first), ms[^|\n]*", page)
    columns += re.findall(r"\d ms[^.\n]*", page)
    assert len(columns) > 5 and all("emulated" in column for column in columns), columns
    heads = [table.read_text().partition("\n")[0] for table in (report / "tables").glob("*.csv")]
    named = re.findall(r"\w+_ms\w*", " ".join(heads))
    assert len(named) > 5 and all(name.endswith("_emulated") for name in named), named
