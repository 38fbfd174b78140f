"""A task that is added as one file reaches a report, though its labels are no classes."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import ktbench.tasks
from ktbench.catalogue import lookup
from ktbench.data import describe, load
from ktbench.records import DataSpec, Item
from tests.support.running import ROOT, results, started, write_matrix

TASK = '''
"""Regression of one number from a few, judged by the share of its variance that is explained."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor
from torch.nn import functional

from ktbench.tasks._contract import InputSpec, Signature, Source, Task


@dataclass(frozen=True)
class Config:
    """Settings."""

    noise: float = 0.1


@dataclass(frozen=True)
class Rows:
    kept: tuple

    def inputs(self, indices, view):
        return self.kept[0][indices]


class Learning(Task):
    noun = "row"
    metric = "explained variance"
    chance = 0.0

    def open(self, spec, base):
        draw = np.random.default_rng(0)
        x = draw.normal(size=(400, 5)).astype(np.float32)
        y = x @ np.arange(1.0, 6.0) + self.config.noise * draw.normal(size=400)
        labels = {"train": y.astype(np.float32)}
        return Source("rows", ("y",), labels, lambda split, rows: x[rows])

    def signature(self, classes, shapes, facts):
        sizes = (("num_classes", 1), ("in_features", shapes[0][0]))
        return Signature((InputSpec("x", shapes[0]),), 1, sizes, "row", "data.task")

    def inputs(self, raw, statistics):
        return raw

    def samples(self, spec, raw, statistics, seed):
        return Rows((raw,))

    def loss(self, outputs, labels):
        return functional.mse_loss(outputs[:, 0], labels)

    def predictions(self, outputs):
        return outputs[:, 0]

    def agreement(self, predictions, others):
        return float(((predictions - others).abs() < 1e-3).double().mean())

    def score(self, predictions, labels):
        left = (predictions - labels).square().mean() / labels.var()
        return max(0.0, 1.0 - float(left))
'''
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
def test_a_regression_added_as_one_file_is_taught_exported_and_reported(tmp_path: Path) -> None:
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
        train={"epochs": 12, "batch_size": 32, "lr": 0.01, "optimiser": "adam"},
        exports={"formats": ["onnx"], "precisions": ["fp32"]},
    )
    folder = tmp_path / "results"
    path = {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    running = started(
        "run", matrix, "--results", folder, cache=tmp_path / "cache", environment=path
    )
    _, errors = running.communicate()
    assert running.returncode == 0, errors
    for result in results(folder).values():
        assert result.checkpoint is not None and result.checkpoint.accuracy.test_last > 0.5
        [artifact] = result.artifacts
        assert artifact.agreement == 1.0
    assert (folder / "report/index.html").is_file()
