"""A task that is added as one file reaches a report, though less of its metric is better."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import ktbench.tasks
from ktbench.catalogue import lookup
from ktbench.compare import compare
from ktbench.data import describe, load
from ktbench.records import DataSpec, Item, KtbenchError
from ktbench.results import Results, load_results
from tests.support.running import ROOT, started, write_matrix

PAGE = (ROOT / "docs" / "tasks.md").read_text()
[TASK] = re.findall(r"```python\n# ktbench/tasks/toy_regression.py\n(.*?)```", PAGE, re.S)
NETWORK = """
from torch import nn

def net(num_classes, in_features, hidden=8):
    return nn.Sequential(nn.Linear(in_features, hidden), nn.ReLU(), nn.Linear(hidden, num_classes))
"""


@pytest.fixture
def added(tmp_path: Path) -> Iterator[Path]:
    """A folder whose file `toy_regression.py` is in the catalogue of tasks."""
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "toy_regression.py").write_text(TASK)
    ktbench.tasks.__path__.append(str(folder))
    lookup._names.cache_clear()
    yield folder
    ktbench.tasks.__path__.remove(str(folder))
    sys.modules.pop("ktbench.tasks.toy_regression", None)
    lookup._names.cache_clear()


SPEC = DataSpec(source="parquet", task=Item(name="toy_regression"))


def test_numbers_to_predict_are_float_and_drawn_without_classes(added: Path) -> None:
    data = load(SPEC, Path())
    assert data.labels("train").is_floating_point() and data.size("test") == 80
    assert describe(SPEC, Path()).signature == data.signature
    assert len(np.unique(data.labels("train").numpy())) > 200


@pytest.mark.slow
def test_a_regression_added_as_one_file_is_judged_by_an_error_to_its_report(tmp_path: Path) -> None:
    """Every process of the run finds the file where the catalogue looks."""
    (tmp_path / "toy_regression.py").write_text(TASK)
    (tmp_path / "nets.py").write_text(NETWORK)
    (tmp_path / "sitecustomize.py").write_text(
        f"import ktbench.tasks\nktbench.tasks.__path__.append({str(tmp_path)!r})\n"
    )
    matrix = write_matrix(
        tmp_path / "m.yaml",
        data={"task": "toy_regression", "source": "parquet"},
        teachers=[{"student": {"nets.py:net": {"arguments": {"hidden": 32}}}, "name": "T"}],
        students=["nets.py:net"],
        methods=["none", "last_layer"],
        seeds=5,
        train={"epochs": 12, "batch_size": 32, "lr": 0.01, "optimiser": "adam", "keep": "best"},
        exports={"formats": ["onnx"], "precisions": ["fp32"]},
        devices=[{"local": {"name": "here", "repeats": 1}}],
    )
    folder = tmp_path / "results"
    path = {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    running = started(
        "run", matrix, "--results", folder, cache=tmp_path / "cache", environment=path
    )
    _, problems = running.communicate()
    assert running.returncode == 0, problems
    results = load_results(folder)
    assert results.lock.task.metric.chance == 6.0 and not results.problems
    for result in results.by_key.values():
        assert result.checkpoint is not None
        accuracy = result.checkpoint.accuracy
        errors = pq.read_table(folder / result.checkpoint.curves)["validation_accuracy"].to_pylist()
        assert min(errors) == accuracy.validation_best < errors[0]
        assert accuracy.best_epoch == 1 + errors.index(min(errors))
        assert accuracy.beside_best["largest error"] > accuracy.test_best > 0
        [artifact] = result.artifacts
        assert artifact.agreement == 1.0
        assert artifact.test_accuracy == pytest.approx(accuracy.test_best, rel=1e-4)
        described = json.loads((folder / f"{artifact.path}.json").read_text())
        assert described["output"]["reduction"] == "none"
        assert described["output"]["shape"] == [1, 1]
    [measurement] = results.all_measurements
    assert measurement.agreement == 1.0
    _check_report(results)
    with pytest.raises(KtbenchError, match="A is judged by mean absolute error, B by top-1"):
        compare(folder, ROOT / "results/reference/hpdc18-small.ktb")


def _check_report(results: Results) -> None:
    """Gains are errors that a technique saves, and the least mean error is the best."""
    errors: dict[str, list[float]] = {"none": [], "last_layer": []}
    for result in results.by_key.values():
        assert result.checkpoint is not None
        errors[result.cell.method.name].append(result.checkpoint.accuracy.test_best)
    plain, taught = (float(np.mean(errors[name])) for name in errors)
    text = (results.path / "report/report.md").read_text()
    assert "accurac" not in text.lower() and not re.search(r", points|[0-9] points \[", text)
    gain = f"{'+' if taught < plain else '−'}{abs(plain - taught):.3f}"
    assert re.search(rf"\| last_layer \| {taught:.3f} \| {re.escape(gain)} \[", text)
    best = "last_layer" if taught < plain else "no transfer"
    assert f"\n| nets.py:net | {best} | " in text.partition("## Gains")[0]
    assert "Less error is better: a gain above 0 is error that a technique saves." in text
    assert "test largest error" in (results.path / "report/index.html").read_text()
