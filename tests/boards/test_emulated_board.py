"""A whole matrix on an emulated 64-bit ARM board, set up from nothing and left as it was."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ktbench.results import ResultsFolder
from tests.support.emulated import EmulatedBoard
from tests.support.emulated_tasks import watched
from tests.support.running import Commands, write_matrix

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


def test_a_matrix_is_right_on_the_board_and_a_power_cut_costs_it_the_artifact_at_work(
    reached: EmulatedBoard, ktbench: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    matrix = write_matrix(
        tmp_path / "m.yaml",
        teachers=[],
        methods=["none"],
        students=[{"resnet8": {"width": 0.25}}, {"resnet8": {"width": 0.5}}],
        exports={"formats": ["onnx", "tflite"], "precisions": ["fp32", "int8"]},
        devices=[{"emulated_aarch64": {"name": "arm", "host": "board", "repeats": 1}}],
    )
    with monkeypatch.context() as impatient, watched(on_last_bench=reached.cut_power):
        impatient.setattr("ktbench.measure.retry.WAITS_S", ())
        cut = ktbench("run", matrix, "--results", "r", "--quiet")
    reached.start()
    (line,) = cut.err.splitlines()
    assert cut.code == 1 and line.startswith("  not measured: ") and "cannot reach board" in line
    kept = list(ResultsFolder(tmp_path / "r").measurements())
    assert len(kept) == 7
    ktbench.report = True
    with watched() as tasks:
        whole = ktbench("run", matrix, "--results", "r")
    assert whole.code == 0, whole.err
    assert tasks.count("bench") == tasks.count("evaluate") == 1
    found = list(ResultsFolder(tmp_path / "r").measurements())
    assert len(found) == 8 and all(measured in found for measured in kept)
    assert_right(ResultsFolder(tmp_path / "r"))
    assert_labelled(tmp_path / "r" / "report")


def assert_right(results: ResultsFolder) -> None:
    """Every artifact has a valid measurement, whose classes on the board are those of here."""
    found = {(m.cell_key, m.export): m for m in results.measurements()}
    artifacts = [a for result in results.results() for a in result.artifacts]
    assert len(found) == len(artifacts) == 8
    for artifact in artifacts:
        measured = found[artifact.cell_key, artifact.export]
        assert measured.origin == "emulated" and measured.validity.valid
        assert measured.test_inputs == 40
        if measured.kernels is not None:  # lost with the power that was cut, for the others
            assert artifact.layers is not None
            assert measured.kernels.integer == measured.kernels.layers == artifact.layers.all
        assert measured.test_accuracy == pytest.approx(artifact.test_accuracy, abs=1 / 40 + 1e-9)


def assert_labelled(report: Path) -> None:
    """Every column of latencies, on the page and in its tables, says that they are emulated."""
    page = (report / "report.md").read_text()
    columns = re.findall(r"(?:p\d\d|load|first), ms[^|\n]*", page)
    columns += re.findall(r"\d ms[^.\n]*", page)
    assert len(columns) > 5 and all("emulated" in column for column in columns), columns
    heads = [table.read_text().partition("\n")[0] for table in (report / "tables").glob("*.csv")]
    named = re.findall(r"\w+_ms\w*", " ".join(heads))
    assert len(named) > 5 and all(name.endswith("_emulated") for name in named), named
