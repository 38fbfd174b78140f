"""The details of the page's cells: how many, how large, and that the command in them is right."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from benchmarks._synthetic import LOCAL, Shape, write_folder
from ktbench.report import cell_details, sections, write_report
from ktbench.report.analysis import Analysis
from ktbench.report.document import Table
from ktbench.results import ResultsFolder, load_results
from tests.support.report_page import page
from tests.support.running import Commands, digests, write_matrix


def told(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = cell_details.page_data(Analysis(load_results(folder)))["cells"]
    return found


@pytest.mark.slow
def test_a_page_of_200_cells_with_long_curves_stays_below_five_megabytes(tmp_path: Path) -> None:
    shape = Shape(
        students=tuple(f"net{i}" for i in range(4)),
        gains={f"method{i}": 0.01 * i for i in range(9)},
        seeds=5,
        epochs=300,
        devices=(LOCAL, LOCAL.model_copy(update={"name": "board", "threads": (1, 4)})),
    )
    folder = write_folder(tmp_path / "run", shape).path
    index = write_report(folder)
    found = re.search(r'id="cell-data">(.*?)</script>', page(folder))
    assert found is not None and len(json.loads(found[1])["cells"]) == 200
    assert index.stat().st_size < 5e6


@pytest.mark.slow
def test_a_larger_matrix_tells_every_group_before_it_tells_more_seeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cell_details, "CELLS_DETAILED", 14)
    folder = write_folder(tmp_path / "run", Shape(epochs=2, devices=(), exports=())).path
    analysis = Analysis(load_results(folder))
    keys = cell_details.detailed_keys(analysis)
    assert list(told(folder)) == keys and len(keys) == 14
    cells = analysis.cells.set_index("key").loc[keys]
    assert (cells["seed"] == 0).sum() == 12 and (cells["seed"] == 1).sum() == 2
    [table] = sections.cells(analysis, keys).parts
    assert isinstance(table, Table)
    assert [row[0].opens for row in table.rows] == keys
    assert table.left_out == "First 14 of 36 rows; all in tables/cells.csv."


@pytest.mark.slow
def test_the_command_of_a_story_makes_the_cell_again_with_the_same_weights(
    ktbench: Commands, tmp_path: Path
) -> None:
    matrix = write_matrix(tmp_path / "matrix.yaml")
    assert ktbench("run", matrix).code == 0
    folder = tmp_path / "results" / "small"
    before = digests(folder)
    key, details = next((k, s) for k, s in told(folder).items() if "kd" in s["title"])
    command, words = details["again"]
    assert command == (
        f"cp -r results/small again && rm -f again/cells/{key}.json && "
        "ktbench run matrix.yaml --results again"
    )
    shutil.copytree(folder, tmp_path / "again")
    (tmp_path / "again" / "cells" / f"{key}.json").unlink()
    assert ktbench("run", "matrix.yaml", "--results", "again").code == 0
    assert digests(tmp_path / "again") == before
    digest = ResultsFolder(tmp_path / "again").result(key)
    assert digest is not None and digest.checkpoint is not None
    assert digest.checkpoint.digest in words
