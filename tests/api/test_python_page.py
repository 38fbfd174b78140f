"""The examples of docs/python.md run as they stand."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

import ktbench
from benchmarks._synthetic import Shape, write_folder
from ktbench.records import KtbenchError
from tests.support.optional_tools import OptionalPackage

onnx = OptionalPackage("onnx")
PAGE = Path(__file__).parents[2] / "docs" / "python.md"
EXAMPLES = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)


@pytest.mark.slow
def test_the_examples_of_the_page_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KTBENCH_CACHE", str(tmp_path / "cache"))
    scope: dict[str, object] = {}
    for example in EXAMPLES:
        exec(compile(example, str(PAGE), "exec"), scope)
    printed = capsys.readouterr().out
    for line in re.findall(r"print\(.*?\)  # (.*?) \.\.\.", "\n".join(EXAMPLES)):
        assert line in printed
    results = scope["results"]
    assert isinstance(results, ktbench.Results)
    assert set(results.cells["status"]) == {"done"} and len(results.verdict()) > 1
    assert (tmp_path / "results/small/report/index.html").exists()
    assert (tmp_path / "away/run.py").exists()
    frame = ktbench.measure(next((tmp_path / "away").glob("*.onnx")), repeats=2)
    assert frame["p50_ms"].gt(0).all() and frame["reason"].tolist() == [""]


@pytest.mark.slow
def test_importing_ktbench_imports_nothing_heavy() -> None:
    code = "import sys, ktbench; print(sorted({'torch', 'numpy', 'pandas'} & set(sys.modules)))"
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout == "[]\n"


def test_a_room_that_has_a_functions_name_is_called_as_the_function() -> None:
    import ktbench.compare
    import ktbench.measure

    with pytest.raises(KtbenchError, match="not a model"):
        ktbench.measure("net.txt")
    with pytest.raises(KtbenchError, match="no results folder"):
        ktbench.compare("a", "b")
    assert ktbench.measure.measure_file is not None
    assert {"run", "plan", "measure", "compare", "load_results", "Results"} <= set(dir(ktbench))


@pytest.mark.slow
def test_results_are_shown_as_a_small_table(tmp_path: Path) -> None:
    results = ktbench.load_results(write_folder(tmp_path / "r", Shape(epochs=2)).path)
    text = repr(results)
    assert text.splitlines()[0] == "synthetic: 36 cells (36 done), 12 measurements"
    assert len(text) < 3000 and len(text.splitlines()) == 14
    assert repr(results) == str(results) and "<table" in results._repr_html_()
    assert isinstance(results.summary, pd.DataFrame) and len(results.summary) == 12
    assert results.summary["seeds"].tolist() == [3] * 12


@pytest.mark.slow
def test_a_dictionary_is_a_matrix_and_its_problems_are_told(tmp_path: Path) -> None:
    wrong = {"data": {"source": "digits"}, "students": ["resnet8"], "train": {"epochs": 0}}
    with pytest.raises(KtbenchError, match="epochs"):
        ktbench.plan(wrong)
    with pytest.raises(KtbenchError, match="holds what no matrix file can hold"):
        ktbench.plan(wrong | {"name": object()})
