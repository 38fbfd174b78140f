"""`ktbench run --only`: which cells words name, and that the folder is of the whole plan."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks._synthetic import Shape, plan_of
from ktbench.records import KtbenchError
from ktbench.results import load_results
from ktbench.runner import only_cells
from tests.support.running import Commands, write_matrix

PLAN = plan_of(Shape(students=("resnet8", "vgg_thin"), teachers=("big", "small"), seeds=2))


def named(words: str) -> set[tuple[str, str, str, int]]:
    keys = only_cells(PLAN, words)
    return {
        (c.student.name, c.method.name, c.teacher.name if c.teacher else "", c.seed)
        for c in PLAN.cells
        if c.key in keys
    }


def test_words_of_one_axis_are_alternatives_and_the_axes_have_to_agree() -> None:
    every = {
        (c.student.name, c.method.name, c.teacher.name if c.teacher else "", c.seed)
        for c in PLAN.cells
    }
    assert named("kd,resnet8") == {c for c in every if c[1] == "kd" and c[0] == "resnet8"}
    assert named("kd, fitnet ,vgg*") == {
        c for c in every if c[1] in ("kd", "fitnet") and c[0] == "vgg_thin"
    }
    assert named("teacher=big,seed=1") == {c for c in every if c[2] == "big" and c[3] == 1}
    assert named("none") == {c for c in every if c[1] == "none"}
    assert named(PLAN.cells[3].key) == named(PLAN.cells[3].label) and len(named("seed=0")) == 14


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("kt", "names no cell: did you mean kd?"),
        ("student=kd", "--only student=kd: names no cell"),
        ("none,big", "no cell of synthetic is all of this"),
        ("seed=7", "names no cell: there are 0, 1"),
    ],
)
def test_words_that_name_nothing_are_told_in_a_line(words: str, message: str) -> None:
    with pytest.raises(KtbenchError) as told:
        only_cells(PLAN, words)
    assert message in str(told.value) and len(str(told.value).splitlines()) == 1


@pytest.mark.slow
def test_a_run_of_some_cells_leaves_the_others_for_later(ktbench: Commands, tmp_path: Path) -> None:
    matrix = write_matrix(tmp_path / "m.yaml", name="some")
    assert ktbench("run", matrix, "--only", "kd").code == 0
    status = load_results(Path("results/some")).cells.set_index("method")["status"]
    assert status.to_dict() == {"none": "pending", "kd": "done"}
    assert ktbench("run", matrix).code == 0
    assert set(load_results(Path("results/some")).cells["status"]) == {"done"}
    assert "names no cell" in ktbench("run", matrix, "--only", "fitnet").error
