"""`ktbench compare`: differences with intervals, what is a regression, and the exit code."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import special

from benchmarks._synthetic import (
    LOCAL,
    PROVENANCE,
    Shape,
    plan_of,
    result_of,
    slower,
    write_folder,
)
from ktbench import stats
from ktbench.compare import Limits, compare
from ktbench.compare.judging import Outcomes, difference, unpaired, verdicts
from ktbench.records import Cell, DeviceSpec, Failure, Validity
from ktbench.results import ResultsFolder, load_results
from ktbench.results.storage import marks_of, sealed
from tests.support.running import Commands

SHAPE = Shape(students=("resnet8",), seeds=4, epochs=3, devices=(), exports=())


def folder(path: Path, shape: Shape, accuracy: Callable[[Cell], float]) -> Path:
    """A results folder of `shape` whose cells have the given test accuracies."""
    found = ResultsFolder(path)
    plan = plan_of(shape)
    with found.open(plan, "", PROVENANCE):
        for cell in plan.cells:
            result = result_of(found, cell, shape)
            if result.checkpoint is not None:
                known = result.checkpoint.accuracy.model_copy(update={"test_last": accuracy(cell)})
                checkpoint = result.checkpoint.model_copy(update={"accuracy": known})
                result = result.model_copy(update={"checkpoint": checkpoint})
            found.write_result(result)
    return path


def level(cell: Cell) -> float:
    return 0.8 + 0.02 * cell.seed


def kd_lower(cell: Cell) -> float:
    """kd loses 3 points, a little more or less with the seed."""
    return level(cell) - (0.03 + 0.002 * cell.seed if cell.method.name == "kd" else 0.0)


# ---------------------------------------------------------------- accuracy


@pytest.mark.slow
def test_a_clear_drop_is_a_regression_with_its_paired_interval_and_exit_code_1(
    ktbench: Commands, tmp_path: Path
) -> None:
    a, b = folder(tmp_path / "a", SHAPE, level), folder(tmp_path / "b", SHAPE, kd_lower)
    answer = ktbench(
        "compare", a, b, "--json", tmp_path / "c.json", "--markdown", tmp_path / "c.md"
    )
    assert answer.code == 1
    assert "1 regression beyond 0 points of accuracy" in answer.out
    assert "resnet8 / kd: −3.3 points" in answer.out
    told = json.loads((tmp_path / "c.json").read_text())
    assert told["regressions"] == ["resnet8 / kd: −3.3 points"]
    rows = {row["group"]["method"]: row for row in told["accuracies"]}
    expected = stats.paired_gain(
        {s: 0.8 + 0.02 * s - 0.03 - 0.002 * s for s in range(4)},
        {s: 0.8 + 0.02 * s for s in range(4)},
    )
    assert expected is not None
    found = [rows["kd"][name] for name in ("difference", "low", "high")]
    assert found == pytest.approx([expected.mean, expected.low, expected.high])
    assert rows["kd"]["verdict"] == "regression"
    assert {rows[m]["verdict"] for m in ("none", "attention", "fitnet")} == {"same"}
    assert "| resnet8 | kd | 83.0 | 79.7 | −3.3 [" in (tmp_path / "c.md").read_text()
    assert ktbench("compare", a, b, "--accuracy-drop", "5").code == 0
    assert ktbench("compare", b, a).code == 0


@pytest.mark.slow
def test_a_drop_that_may_be_within_what_is_allowed_is_worse_and_no_regression(
    tmp_path: Path,
) -> None:
    a, b = folder(tmp_path / "a", SHAPE, level), folder(tmp_path / "b", SHAPE, kd_lower)
    found = {
        drop: next(
            row.verdict
            for row in compare(a, b, Limits(accuracy_drop=drop)).accuracies
            if row.group.method == "kd"
        )
        for drop in (0.0, 2.5, 3.1, 5.0)
    }
    assert found == {0.0: "regression", 2.5: "regression", 3.1: "worse", 5.0: "worse"}


@pytest.mark.slow
def test_folders_that_share_no_seeds_are_compared_unpaired(tmp_path: Path) -> None:
    plan = plan_of(replace(SHAPE, seeds=8))
    folders = []
    for name, seeds, shift in (("a", range(3), 0.0), ("b", range(3, 8), -0.2)):
        found = ResultsFolder(tmp_path / name)
        cells = tuple(c for c in plan.cells if c.seed in seeds)
        with found.open(plan.model_copy(update={"cells": cells}), "", PROVENANCE):
            for cell in cells:
                result = result_of(found, cell, SHAPE)
                assert result.checkpoint is not None
                known = result.checkpoint.accuracy
                known = known.model_copy(update={"test_last": known.test_last + shift})
                checkpoint = result.checkpoint.model_copy(update={"accuracy": known})
                found.write_result(result.model_copy(update={"checkpoint": checkpoint}))
        folders.append(found.path)
    found_ = compare(*folders)
    assert {(r.how, r.n_before, r.n_after, r.verdict) for r in found_.accuracies} == {
        ("unpaired", 3, 5, "regression")
    }
    cells = load_results(folders[0]).cells
    mean = cells.loc[cells["method"] == "kd", "accuracy"].mean()
    assert next(r.before for r in found_.accuracies if r.group.method == "kd") == mean
    assert [m.reason for m in found_.only_before] == ["not in the matrix"] * 4


def test_one_seed_gives_a_difference_that_cannot_be_judged(
    ktbench: Commands, tmp_path: Path
) -> None:
    one = replace(SHAPE, seeds=1)
    a, b = folder(tmp_path / "a", one, level), folder(tmp_path / "b", one, kd_lower)
    answer = ktbench("compare", a, b)
    assert answer.code == 0
    assert "cannot be judged 1, same 3" in answer.out and "−3.0" in answer.out


@pytest.mark.slow
def test_many_comparisons_of_equal_things_rarely_show_a_change() -> None:
    random = np.random.default_rng(7)
    wrong = 0
    for _ in range(150):
        pairs = random.normal(0, 0.01, (10, 2, 5))
        found = [
            difference(Outcomes(dict(enumerate(a))), Outcomes(dict(enumerate(b))), 0.0)
            for a, b in pairs
        ]
        wrong += any(v != "no clear change" for v in verdicts(found, 0.0))
    assert wrong <= 15  # 5 % of 150 are 7.5; each comparison alone would give some 60


def test_an_unpaired_interval_is_welchs() -> None:
    before, after = np.array([1.0, 2.0, 4.0]), np.array([5.0, 5.5, 9.0, 7.5, 6.0])
    found = unpaired(list(before), list(after), 0.0)
    parts = [side.var(ddof=1) / len(side) for side in (before, after)]
    freedom = sum(parts) ** 2 / (parts[0] ** 2 / 2 + parts[1] ** 2 / 4)
    half = special.stdtrit(freedom, 0.975) * np.sqrt(sum(parts))
    assert [found.low, found.high] == pytest.approx([found.mean - half, found.mean + half])
    assert found.mean == pytest.approx(after.mean() - before.mean())


# ---------------------------------------------------------------- cells


@pytest.mark.slow
def test_a_cell_that_fails_now_is_a_regression_and_one_that_is_gone_is_not(
    ktbench: Commands, tmp_path: Path
) -> None:
    a = folder(tmp_path / "a", SHAPE, level)
    nan = Failure(stage="train", reason="loss became nan", step=3)
    bad = replace(SHAPE, failed=lambda c: nan if (c.method.name, c.seed) == ("fitnet", 2) else None)
    answer = ktbench("compare", a, folder(tmp_path / "b", bad, level))
    assert answer.code == 1
    assert "resnet8 / fitnet, seed 2: failed (loss became nan)" in answer.out
    fewer = folder(tmp_path / "c", replace(SHAPE, gains={"kd": 0.0}), level)
    answer = ktbench("compare", a, fewer)
    assert answer.code == 0
    assert "fitnet     0, 1, 2, 3  not in the matrix" in answer.out


@pytest.mark.slow
def test_settings_and_versions_that_differ_are_named(tmp_path: Path) -> None:
    a = folder(tmp_path / "a", SHAPE, level)
    b = ResultsFolder(tmp_path / "b")
    plan = plan_of(replace(SHAPE, epochs=4))
    newer = PROVENANCE.model_copy(update={"versions": {"torch": "2.14.0", "numpy": "2.2.0"}})
    with b.open(plan, "", newer):
        for cell in plan.cells:
            b.write_result(result_of(b, cell, replace(SHAPE, epochs=4)))
    found = compare(a, b.path)
    assert [(s.name, s.before, s.after) for s in found.settings] == [("train.epochs", "3", "4")]
    assert [(s.name, s.before, s.after) for s in found.versions] == [("torch", "2.13.0", "2.14.0")]
    assert {row.same_weights for row in found.accuracies} == {0}
    assert {row.same_weights for row in compare(a, a).accuracies} == {4}


# ---------------------------------------------------------------- latency


def timed(
    path: Path,
    medians: list[float],
    devices: tuple[DeviceSpec, ...] = (LOCAL,),
    **change: object,
) -> Path:
    """A folder with one graph whose repeats have these medians in ms, with little spread within."""
    shape = replace(SHAPE, devices=devices, exports=Shape().exports[:1], gains={}, seeds=2)
    found = write_folder(path, replace(shape, **change))  # type: ignore[arg-type]
    random = np.random.default_rng(3)
    seconds = np.concatenate([m * random.normal(1, 0.01, 500) for m in medians]) / 1e3
    repeat = np.repeat(np.arange(len(medians)), 500).astype(np.int16)
    table = pa.table({"repeat": repeat, "seconds": seconds})
    middle = float(np.quantile(1e3 * seconds, 0.5, method="inverted_cdf"))
    runs = {"runs": len(seconds), "repeats": len(medians), "mean_ms": 1e3 * seconds.mean()}
    for file in found.measurement_files():
        measurement = slower(found.measurement(file).record, middle).model_copy(update=runs)
        pq.write_table(table, found.path / measurement.samples)
        file.write_text(sealed(measurement, marks_of(found.path, [measurement.samples])))
    return found.path


@pytest.mark.slow
def test_a_clear_rise_of_latency_is_a_regression_beyond_what_is_allowed(
    ktbench: Commands, tmp_path: Path
) -> None:
    a = timed(tmp_path / "a", [1.00, 1.01, 0.99])
    b = timed(tmp_path / "b", [1.30, 1.31, 1.29])
    [row] = compare(a, b).latencies
    assert row.low is not None and row.high is not None
    assert row.low < row.ratio < row.high and row.ratio == pytest.approx(1.3, rel=0.01)
    assert row.low > 1.25 and row.high < 1.35
    answer = ktbench("compare", a, b)
    assert (answer.code, row.verdict) == (1, "regression")
    assert "resnet8 as onnx-fp32 on local: 1.30× the latency" in answer.out
    assert ktbench("compare", a, b, "--latency-rise", "50").code == 0
    assert ktbench("compare", b, a).code == 0


def test_every_device_has_a_table_and_no_ratio_is_lost_in_80_columns(
    ktbench: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    boards = tuple(DeviceSpec(profile="local", name=f"a board of some name {n}") for n in (1, 2))
    a = timed(tmp_path / "a", [1.00, 1.01, 0.99], boards)
    b = timed(tmp_path / "b", [1.30, 1.31, 1.29], boards)
    answer = ktbench("compare", a, b)
    tables = answer.out.partition("Test accuracy: ")[0]
    titles = [line for line in tables.splitlines() if line.startswith("Median latency on")]
    assert titles == [f"Median latency on a board of some name {n}" for n in (1, 2)]
    assert len(re.findall(r"1\.3\d?× \[1\.2\d, 1\.3\d\] +regression", tables)) == 2


def test_the_spread_of_a_latency_is_that_of_repeats_and_not_of_runs(tmp_path: Path) -> None:
    a = timed(tmp_path / "a", [1.0, 1.6, 0.8])
    b = timed(tmp_path / "b", [1.3, 2.0, 1.0])
    [row] = compare(a, b).latencies
    assert row.verdict == "no clear change"  # 1,500 runs a side would be sure of the difference
    assert row.low is not None and row.low < 0.7


def test_what_was_measured_and_what_was_emulated_are_not_compared(tmp_path: Path) -> None:
    a, b = timed(tmp_path / "a", [1.0, 1.1]), timed(tmp_path / "b", [1.0, 1.1], origin="emulated")
    assert compare(a, b).latencies == []


def test_an_invalid_measurement_is_shown_and_not_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = timed(tmp_path / "a", [1.00, 1.01, 0.99]), timed(tmp_path / "b", [2.00, 2.01, 1.99])
    [path] = (b / "measurements").glob("*.json")
    hot = Validity(reasons=("the board throttled during the run",))
    before = ResultsFolder(b).measurement(path)
    path.write_text(sealed(before.record.model_copy(update={"validity": hot}), before.files))
    found = compare(a, b)
    [row] = found.latencies
    assert (row.verdict, row.low) == ("cannot be judged", None)
    assert row.notes == ("invalid in B: the board throttled during the run",)
    assert found.regressions == []


# ---------------------------------------------------------------- the command


@pytest.mark.slow
def test_folders_that_cannot_be_compared_end_with_one_line_and_exit_code_2(
    ktbench: Commands, tmp_path: Path
) -> None:
    a = folder(tmp_path / "a", SHAPE, level)
    other = folder(tmp_path / "b", replace(SHAPE, students=("vgg_thin",)), level)
    answer = ktbench("compare", a, other)
    assert answer.code == 2 and "there is nothing to compare" in answer.error
    answer = ktbench("compare", a, tmp_path / "nowhere")
    assert answer.code == 2 and "no results folder" in answer.error
    assert ktbench("compare", a, a, "--accuracy-drop", "-1").code == 2


def test_damaged_samples_are_told_and_cost_the_interval_of_their_own_measurement_alone(
    ktbench: Commands, tmp_path: Path
) -> None:
    a, b = timed(tmp_path / "a", [1.0, 1.1]), timed(tmp_path / "b", [1.0, 1.1])
    [samples] = (b / "measurements").glob("*.parquet")
    samples.write_bytes(b"PAR1")
    answer = ktbench("compare", a, b)
    assert answer.code == 0 and "Damaged in B, and left out" in answer.out
    assert "B: 1 damaged file left out" in answer.out
    [row] = compare(a, b).latencies
    assert row.verdict == "cannot be judged" and row.repeats_before == 2


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.slow
def test_no_figure_is_lost_on_a_narrow_terminal_and_no_name_becomes_markup(
    ktbench: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    name = "[bold]a_student|with_a_long_name(width=0.25, depth=3)<b>"
    shape = replace(SHAPE, students=(name,))
    a, b = folder(tmp_path / "a", shape, level), folder(tmp_path / "b", shape, kd_lower)
    answer = ktbench("compare", a, b, "--markdown", tmp_path / "c.md")
    tables = answer.out.partition("Test accuracy: ")[0].splitlines()
    assert max(map(len, tables)) <= max(columns, len(f"A {a}"))
    assert "[bold]a_stud" in answer.out and "−3.3 [−3.7, −2.9]" in answer.out
    assert "regression" in answer.out and "same" in answer.out
    written = (tmp_path / "c.md").read_text()
    assert "\\|with" in written and "<b>" not in written
