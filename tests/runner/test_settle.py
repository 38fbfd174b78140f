"""`ktbench plan --settle`: the matrix of the seeds that would decide what is not decided yet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks._synthetic import PROVENANCE, Shape, result_of
from ktbench import stats
from ktbench.matrix import load, plan
from ktbench.records import Cell
from ktbench.report.analysis import Analysis
from ktbench.report.document import rows_of
from ktbench.results import ResultsFolder, load_results
from ktbench.runner.more_seeds import settle, write
from tests.support.running import Commands, digests, write_matrix

KD = {"kd": {"temperature": 2.0}}
MATRIX: dict[str, Any] = {
    "students": ["resnet8", "vgg_shallow"],
    "methods": ["none", "kd", KD, "attention", "fitnet"],
    "seeds": 3,
    "exclude": [{"method": "fitnet", "student": "vgg_shallow"}],
    "include": [{"method": "attention", "train": {"epochs": 3}}],
}
SHAPE = Shape(
    students=("resnet8", "vgg_shallow"),
    gains={"kd": 0.03, "attention": 0.008, "fitnet": 0.6},
    noise=0.02,
    epochs=2,
)


def filled(path: Path, matrix: Path, shape: Shape = SHAPE) -> Path:
    """A results folder of every cell of a matrix, with made-up figures."""
    folder, planned = ResultsFolder(path), plan(load(matrix))
    with folder.open(planned, matrix.read_text(), PROVENANCE, data_digest="d" * 16):
        for cell in planned.cells:
            if folder.result(cell.key) is None:
                folder.write_result(result_of(folder, cell, shape))
    return path


def named(cell: Cell) -> tuple[str, str]:
    return cell.student.label, cell.method.label


@pytest.mark.slow
def test_the_matrix_has_the_earlier_cells_and_exactly_those_that_settle(tmp_path: Path) -> None:
    matrix = write_matrix(tmp_path / "m.yaml", **MATRIX)
    folder = filled(tmp_path / "r", matrix)
    before = {cell.key: cell for cell in plan(load(matrix)).cells}
    found = settle(matrix, folder)
    path = write(found, matrix)
    after = {cell.key: cell for cell in plan(load(path)).cells}
    assert path.name == "m.settle.yaml" and before.keys() <= after.keys() and found.extra == 0

    gains = Analysis(load_results(folder)).gains
    open_ones = gains[gains["settled_by"].notna() & ~gains["is_baseline"]]
    assert 0 < len(open_ones) < (~gains["is_baseline"]).sum()  # some are decided, some are not
    expected: dict[tuple[str, str], int] = {}
    for row in rows_of(open_ones):
        pair = (row["student"], row["plain_method"])
        expected[pair] = int(row["settled_by"]) - 3
        baseline = (row["student"], "none")
        expected[baseline] = max(expected.get(baseline, 0), expected[pair])
    new = [after[key] for key in after.keys() - before.keys()]
    counted = {pair: sum(named(c) == pair for c in new) for pair in map(named, new)}
    assert counted == expected
    assert {cell.train.epochs for cell in new if cell.method.name == "attention"} <= {3}
    # Every new cell of a method has its baseline, with the same seed.
    baselines = {(c.student.label, c.seed) for c in after.values() if c.method.name == "none"}
    assert all((cell.student.label, cell.seed) in baselines for cell in new)


@pytest.mark.slow
def test_what_has_been_settled_is_not_asked_for_again(tmp_path: Path) -> None:
    matrix = write_matrix(tmp_path / "m.yaml", **MATRIX | {"seeds": 1})
    folder = filled(tmp_path / "r", matrix)
    again = write(settle(matrix, folder), matrix)
    waiting = settle(again, folder)  # its new cells have not run: nothing more is asked for
    assert not waiting.cells and any("not run yet" in reason for reason in waiting.left)
    filled(folder, again)
    second = settle(again, folder)
    used = {c.key for c in plan(load(again)).cells}
    assert all(cell.key not in used for cell in second.cells)
    n = {(c.student, c.method): c.n for c in settle(matrix, folder).comparisons}
    assert all(c.n >= n.get((c.student, c.method), 0) for c in second.comparisons)


@pytest.mark.slow
def test_seeds_that_only_the_baseline_has_are_used_first(tmp_path: Path) -> None:
    more = [{"student": "resnet8", "method": "none", "seed": [7, 9]}]
    matrix = write_matrix(tmp_path / "m.yaml", seeds=1, students="resnet8", include=more)
    folder = filled(tmp_path / "r", matrix, Shape(students=("resnet8",)))
    [comparison] = settle(matrix, folder).comparisons
    assert (comparison.n, comparison.settled_by) == (1, stats.FIRST_SEEDS)
    assert comparison.seeds == (7, 9, 1, 2)


@pytest.mark.slow
def test_cells_of_every_axis_are_named_alone(tmp_path: Path) -> None:
    axes = {"budget": [1, 3], "views": ["fresh", 2], "distill": {"end": [0.5, 1.0]}}
    students = ["resnet8", {"resnet8": {"width": 0.5}}]
    matrix = write_matrix(
        tmp_path / "m.yaml", **axes, methods=["none", "kd", KD], seeds=2, students=students
    )
    folder = filled(tmp_path / "r", matrix, Shape(students=("resnet8",), gains={"kd": 0.02}))
    before = {cell.key for cell in plan(load(matrix)).cells}
    found = settle(matrix, folder)
    path = write(found, matrix)
    after = [cell for cell in plan(load(path)).cells if cell.key not in before]
    assert len(after) == len(found.cells) > 0 and found.extra == 0
    # The undecided lie apart on the axes, and bring no others in between with them.
    assert len({(c.train.epochs, c.train.views, c.distill) for c in after}) > 4


@pytest.mark.slow
def test_its_cost_is_that_of_the_earlier_seeds(tmp_path: Path) -> None:
    matrix = write_matrix(tmp_path / "m.yaml", **MATRIX)
    folder = filled(tmp_path / "r", matrix)
    found, cells = settle(matrix, folder), load_results(folder).cells
    each = (cells["seconds"] + cells["teacher_seconds"]).groupby(
        [cells["student"], cells["method"]]
    )
    mean = each.mean()
    assert found.seconds == pytest.approx(sum(mean[named(cell)] for cell in found.cells))
    assert 0 < found.shared_seconds < found.seconds


@pytest.mark.slow
def test_a_run_of_it_trains_the_new_cells_alone(ktbench: Commands, tmp_path: Path) -> None:
    matrix = write_matrix(tmp_path / "m.yaml")
    assert ktbench("run", matrix, "--results", "r", "-q").code == 0
    before = digests(Path("r"))
    stamps = {p: p.stat().st_mtime_ns for p in Path("r/cells").iterdir()}
    told = json.loads(ktbench("plan", matrix, "--settle", "r", "--json").out)
    assert len(told["cells"]) == 2 * (stats.FIRST_SEEDS - 1)
    assert ktbench("run", told["file"], "--results", "r", "-q").code == 0
    after = digests(Path("r"))
    assert len(after) == len(before) + len(told["cells"])
    assert {label: after[label] for label in before} == before
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    [row] = Analysis(load_results(Path("r"))).gains.query("~is_baseline").to_dict("records")
    assert row["n"] == stats.FIRST_SEEDS


@pytest.mark.slow
def test_nothing_to_settle_writes_nothing(ktbench: Commands, tmp_path: Path) -> None:
    matrix = write_matrix(tmp_path / "m.yaml", students="resnet8", methods=["kd"], seeds=5)
    shape = Shape(students=("resnet8",), gains={"kd": 0.4}, noise=0.001, epochs=1)
    filled(tmp_path / "r", matrix, shape)
    answer = ktbench("plan", matrix, "--settle", tmp_path / "r")
    assert answer.code == 0 and "nothing to decide" in answer.out
    assert "decided already: 1 comparison" in answer.out
    assert not (tmp_path / "m.settle.yaml").exists()


@pytest.mark.slow
def test_what_is_printed_names_seeds_cost_and_the_next_command(
    ktbench: Commands, tmp_path: Path
) -> None:
    matrix = write_matrix(tmp_path / "m.yaml", **MATRIX)
    filled(tmp_path / "r", matrix)
    out = ktbench("plan", matrix, "--settle", tmp_path / "r", "-o", tmp_path / "more.yaml").out
    assert "to decide, with 80 % power" in out and "new trainings: " in out
    assert f"next: ktbench run {tmp_path / 'more.yaml'} --results {tmp_path / 'r'}" in out


@pytest.mark.slow
def test_mistakes_are_one_line_each(ktbench: Commands, tmp_path: Path) -> None:
    matrix = write_matrix(tmp_path / "m.yaml", **MATRIX)
    other = write_matrix(tmp_path / "other.yaml", students="vit_tiny", methods=["none", "kd"])
    folder = filled(tmp_path / "r", matrix)
    (tmp_path / "mine.yaml").write_text("name: mine\n")
    (tmp_path / "elsewhere").mkdir()
    for arguments, words in (
        ((matrix, "--settle", tmp_path / "nowhere"), "nowhere"),
        ((other, "--settle", folder), "give the matrix that it was run with"),
        ((matrix, "-o", "x.yaml"), "needs --settle"),
        ((matrix, "--settle", folder, "-o", tmp_path / "mine.yaml"), "exists already"),
        ((matrix, "--settle", folder, "-o", tmp_path / "elsewhere/x.yaml"), "write it there"),
    ):
        answer = ktbench("plan", *arguments)
        assert answer.code == 2 and words in answer.error, arguments
    assert (tmp_path / "mine.yaml").read_text() == "name: mine\n"
