"""The stories of the page's cells: how many, how large, and that the command in them is right."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from benchmarks._synthetic import LOCAL, Shape, write_folder
from ktbench.report import stories, write_report
from ktbench.report.analysis import Analysis
from ktbench.results import load_results
from tests.report_page import outline, page
from tests.running import Commands, digests, write_matrix

pytest_plugins = ("tests.running_fixtures",)


def told(folder: Path) -> dict[str, dict[str, object]]:
    found = re.search(r'id="stories">(.*?)</script>', page(folder))
    assert found is not None
    cells: dict[str, dict[str, object]] = json.loads(found[1])["cells"]
    return cells


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
    assert len(told(folder)) == 200
    assert index.stat().st_size < 5e6


def test_a_larger_matrix_tells_every_group_before_it_tells_more_seeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stories, "STORIES_SHOWN", 14)
    folder = write_folder(tmp_path / "run", Shape(epochs=2, devices=())).path
    write_report(folder)
    found = load_results(folder)
    keys = stories.told_keys(Analysis(found))
    assert list(told(folder)) == keys and len(keys) == 14
    cells = found.cells.set_index("key").loc[keys]
    assert (cells["seed"] == 0).sum() == 12 and (cells["seed"] == 1).sum() == 2
    words = " ".join(outline(folder).words)
    assert "First 14 of 36 rows; all in tables/cells.csv." in words


def test_the_command_of_a_story_makes_the_cell_again_with_the_same_weights(
    ktbench: Commands, tmp_path: Path
) -> None:
    matrix = write_matrix(tmp_path / "matrix.yaml")
    assert ktbench("run", matrix).code == 0
    folder = tmp_path / "results" / "small"
    before = digests(folder)
    write_report(folder)
    key, story = next((k, s) for k, s in told(folder).items() if "kd" in str(s["title"]))
    command, words = story["again"]  # type: ignore[misc]
    assert command == (
        f"cp -r results/small again && rm -f again/cells/{key}.json && "
        "ktbench run matrix.yaml --results again"
    )
    shutil.copytree(folder, tmp_path / "again")
    (tmp_path / "again" / "cells" / f"{key}.json").unlink()
    answer = ktbench("run", "matrix.yaml", "--results", "again")
    assert answer.code == 0 and "1 cell" in answer.out + answer.err
    assert digests(tmp_path / "again") == before
    assert any(digest in words for digest in before.values())
