"""The report's judgement: one family of signs, what would settle the rest, order on devices."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy

from benchmarks._synthetic import (
    LOCAL,
    PROVENANCE,
    Shape,
    measurement_of,
    plan_of,
    write_folder,
)
from ktbench import stats
from ktbench.records import DeviceSpec, Measurement, Statistic
from ktbench.report import sections, write_report
from ktbench.report.analysis import Analysis
from ktbench.report.document import Note, Section, Table
from ktbench.report.verdict import sentences
from ktbench.results import ResultsFolder, load_results
from tests.support.report_page import outline, page


def analysis_of(path: Path, shape: Shape) -> Analysis:
    return Analysis(load_results(write_folder(path, shape).path))


def tables(section: Section) -> dict[str, pd.DataFrame]:
    return {part.name: part.frame for part in section.parts if isinstance(part, Table)}


def _table(section: Section, name: str) -> Table:
    [found] = [p for p in section.parts if isinstance(p, Table) and p.name == name]
    return found


# ---------------------------------------------------------------- the family


@pytest.mark.slow
def test_signs_are_those_of_scipys_paired_t_tests_adjusted_over_all_but_the_baselines(
    tmp_path: Path,
) -> None:
    shape = Shape(gains={"kd": 0.02, "attention": 0.008, "fitnet": -0.02}, seeds=5, epochs=2)
    analysis = analysis_of(tmp_path / "run", shape)
    gains, cells = analysis.gains, analysis.cells
    accuracy = cells.pivot_table(index="seed", columns=["student", "method"], values="accuracy")
    compared = gains[~gains["is_baseline"]]
    raw = [
        scipy.stats.ttest_rel(accuracy[r.student, r.method], accuracy[r.student, "none"]).pvalue
        for r in compared.itertuples()
    ]
    assert compared["p"].tolist() == pytest.approx(raw)
    expected = stats.signs_at(compared["gain"], stats.holm(raw))
    assert compared["sign"].tolist() == expected
    # The folder is one where it matters: something is clear alone and not among all.
    assert (compared["alone"] != compared["sign"]).any() and "positive" in expected
    assert gains.loc[gains["is_baseline"], "p_holm"].isna().all()
    assert (compared["p_exact"] >= stats.least_sign_flip_p(5)).all()


@pytest.mark.slow
def test_the_page_names_level_and_family_and_marks_what_is_clear_on_its_own_only(
    tmp_path: Path,
) -> None:
    path = tmp_path / "run"
    shape = Shape(gains={"kd": 0.2, "attention": 0.011, "fitnet": -0.01}, seeds=5, epochs=2)
    analysis = analysis_of(path, shape)
    write_report(path)
    words = " ".join(outline(path).words)
    assert "9 comparisons, one family" in words and "Holm's step-down" in words
    assert "cannot show less than p = 0.062 with 5 seeds" in words
    compared = analysis.gains[~analysis.gains["is_baseline"]]
    alone = compared[(compared["sign"] == "none") & (compared["alone"] == "positive")]
    assert len(alone) and page(path).count("(+) [") == len(alone)
    figure = (path / "report/figures/gains.svg").read_text(encoding="utf-8")
    assert "clear on its own, not among all" in figure
    assert any(line.endswith("at 95\u00a0% for all together.") for line in sentences(analysis))


@pytest.mark.slow
def test_undecided_comparisons_stand_with_the_seeds_that_would_decide_them(tmp_path: Path) -> None:
    shape = Shape(gains={"kd": 0.2, "attention": 0.008, "fitnet": 0.0}, seeds=4, epochs=2)
    analysis = analysis_of(tmp_path / "run", shape)
    gains = analysis.gains
    table = tables(sections.gains(analysis))["unsettled"]
    compared = gains[~gains["is_baseline"]]
    open_ones = compared[compared["sign"].isin(["none", "unknown"])]
    assert len(table) == len(open_ones) > 0
    assert compared.loc[compared["method"] == "kd", "settled_by"].isna().all()
    alpha = (1 - stats.LEVEL) / len(open_ones)
    for row in table.to_dict("records"):
        if np.isnan(row["settled_by"]):
            assert row["unsettled_why"]
            continue
        half = (row["gain_high"] - row["gain_low"]) / 2
        deviation = half * 2 / scipy.stats.t.ppf(0.975, 3)  # 4 seeds: half = t · s / 2
        seeds = int(row["settled_by"])
        assert seeds > row["n"]
        assert stats.t_test_power(row["gain"] / deviation, seeds, alpha) >= stats.POWER - 1e-9


def test_one_seed_asks_for_a_spread_before_anything_else(tmp_path: Path) -> None:
    gains = analysis_of(tmp_path / "run", Shape(seeds=1, epochs=2)).gains
    compared = gains[~gains["is_baseline"]]
    assert set(compared["sign"]) == {"unknown"}
    assert set(compared["settled_by"]) == {stats.FIRST_SEEDS}
    assert compared["p_holm"].isna().all() and compared["effect"].isna().all()


@pytest.mark.slow
def test_the_bootstrap_stands_beside_the_t_interval_where_there_are_seeds_for_it(
    tmp_path: Path,
) -> None:
    many = Shape(students=("resnet8",), gains={"kd": 0.01}, seeds=20, epochs=1, devices=())
    few = Shape(students=("resnet8",), gains={"kd": 0.01}, seeds=5, epochs=1, devices=())
    for shape, shown in ((many, True), (few, False)):
        analysis = analysis_of(tmp_path / str(shape.seeds), shape)
        [row] = analysis.gains.query("method == 'kd'").to_dict("records")
        heads = [column.title for column in _table(sections.gains(analysis), "gains").columns]
        assert ("bootstrap, points" in heads) == shown
        if shown:
            middle = (row["bca_low"] + row["bca_high"]) / 2
            assert middle == pytest.approx(row["gain"], abs=0.002)
        else:
            assert np.isnan(row["bca_low"])


# ---------------------------------------------------------------- devices

BOARD = DeviceSpec(profile="local", name="board")
SHAPE = Shape(gains={"kd": 0.0}, seeds=2, epochs=2, devices=(LOCAL, BOARD))


def two_devices(path: Path, change: dict[str, float], *, blur: float = 0.01) -> Analysis:
    """A folder of two devices whose latencies differ by a factor per student."""
    folder, plan = ResultsFolder(path), plan_of(SHAPE)
    write_folder(path, Shape(**{**SHAPE.__dict__, "devices": ()}))
    with folder.open(plan, "name: synthetic\n", PROVENANCE, data_digest="d" * 16):
        for device in plan.devices:
            for cell in plan.cells:
                for export in plan.exports if cell.seed == 0 and cell.teacher is None else ():
                    size = 5 + SHAPE.students.index(cell.student.name)
                    found = measurement_of(cell, export, device, size=size)
                    factor = change.get(cell.student.name, 1.0) if device is plan.devices[1] else 1
                    folder.write_measurement(_scaled(found, factor, blur))
    return Analysis(load_results(path))


def _scaled(found: Measurement, factor: float, blur: float) -> Measurement:
    value = found.p50_ms.value * factor
    bounds = {"low": value * (1 - blur), "high": value * (1 + blur)}
    p50 = Statistic(**{**found.p50_ms.model_dump(), "value": value, **bounds})
    p90 = Statistic(value=value * 1.1, low=value, high=value * 1.2)
    return found.model_copy(update={"p50_ms": p50, "p90_ms": p90})


@pytest.mark.slow
def test_devices_that_order_deployments_alike_agree_wholly(tmp_path: Path) -> None:
    [section] = sections.stability(two_devices(tmp_path / "run", {}))
    found = tables(section)
    [row] = found["stability"].to_dict("records")
    assert (row["device"], row["other"], row["deployments"]) == ("local", "board", 12)
    assert row["tau"] == pytest.approx(1.0) and row["tau_high"] == 1.0 and row["swapped"] == 0
    told = section.parts[0]
    assert isinstance(told, Note) and told.kind == "good"
    assert "put 12 deployments in the same order: none of 66 pairs swaps (" in told.text
    assert "swaps" not in found


@pytest.mark.slow
def test_a_student_that_is_slow_on_one_device_only_is_named_with_its_rivals(tmp_path: Path) -> None:
    analysis = two_devices(tmp_path / "run", {"resnet8": 1.5})
    [section] = sections.stability(analysis)
    [row] = tables(section)["stability"].to_dict("records")
    swaps = tables(section)["swaps"]
    assert row["tau_low"] <= row["tau"] <= row["tau_high"] < 1 and row["swapped"] == len(swaps)
    assert (swaps["ratio"] > 1).all() and (swaps["other_ratio"] < 1).all()
    same = swaps[swaps["same_export"]]
    assert set(same["quicker"]) == {"resnet8"}
    assert set(same["slower"]) == {"vgg_shallow", "vgg_thin"}
    assert swaps["same_export"].tolist() == sorted(swaps["same_export"], reverse=True)
    told = section.parts[0]
    assert isinstance(told, Note) and told.kind == "warn"
    assert (
        f"(1 thread) do not put 12 deployments in the same order: {len(swaps)} of 66" in told.text
    )
    write_report(tmp_path / "run")
    assert "Order on other devices" in page(tmp_path / "run")


def test_a_swap_within_the_noise_of_the_medians_is_not_named(tmp_path: Path) -> None:
    [section] = sections.stability(two_devices(tmp_path / "run", {"resnet8": 1.5}, blur=0.6))
    [row] = tables(section)["stability"].to_dict("records")
    assert row["swapped"] == 0 and row["unclear"] > 0 and row["tau_low"] < row["tau"]


@pytest.mark.slow
def test_one_device_has_no_order_to_compare(tmp_path: Path) -> None:
    assert sections.stability(analysis_of(tmp_path / "run", Shape(seeds=2, epochs=2))) == ()
