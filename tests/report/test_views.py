"""Reused augmentations in the report: what they cost, and that nothing pools them with fresh."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy

from benchmarks._synthetic import DATA, PROVENANCE, Shape, plan_of, result_of, write_folder
from ktbench import stats
from ktbench.records import (
    Augmentation,
    Cell,
    DataSpec,
    NumericSpec,
    Plan,
    TeacherOutputs,
    TrainSpec,
)
from ktbench.report import write_report
from ktbench.report.analysis import Analysis
from ktbench.report.efficiency import view_reuse
from ktbench.report.verdict import sentences
from ktbench.results import ResultsFolder, load_results
from tests.support.report_page import outline

AUGMENTED = DataSpec(
    source="digits", train_size=300, augment=Augmentation(crop_padding=1, flip=True)
)
BOTH = Shape(
    students=("resnet8", "vgg_thin"),
    gains={"kd": 0.03, "attention": 0.0},
    seeds=4,
    epochs=8,
    exports=(),
    devices=(),
    noise=0.002,
    data=AUGMENTED,
    views=(None, 2, 4),
    reuse_cost=0.2,
)


def write(
    place: Path, change: Callable[[Cell], Cell], views: tuple[int | None, ...] = (None,)
) -> Analysis:
    """A finished folder of a small synthetic matrix whose cells were changed."""
    shape = replace(BOTH, students=("resnet8",), seeds=2, epochs=4, views=views)
    plan: Plan = plan_of(shape)
    plan = plan.model_copy(update={"cells": tuple(change(cell) for cell in plan.cells)})
    folder = ResultsFolder(place)
    with folder.open(plan, "", PROVENANCE):
        for cell in plan.cells:
            folder.write_result(result_of(folder, cell, shape))
    return Analysis(load_results(place))


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = write_folder(tmp_path_factory.mktemp("views") / "run", BOTH).path
    write_report(path)
    return path


# ---------------------------------------------------------------- the comparison


@pytest.mark.slow
def test_the_cost_of_views_is_the_paired_difference_from_fresh_augmentations(both: Path) -> None:
    cells = load_results(both).cells
    rows = view_reuse.by_group(Analysis(load_results(both)).reused).to_dict("records")
    assert len(rows) == 2 * 3 * 2, "students × (methods and no transfer) × numbers of views"
    for row in rows:
        method = "none" if row["is_baseline"] else row["label"]
        own = cells[(cells["student"] == row["student"]) & (cells["method"] == method)]
        fresh, reused = (
            rows.set_index("seed")["accuracy"].to_dict()
            for rows in (own[own["views"].isna()], own[own["views"] == row["views"]])
        )
        expected = stats.paired_gain(reused, fresh)
        assert expected is not None
        assert row["n"] == 4
        assert row["gain"] == pytest.approx(expected.mean)
        assert row["gain_low"] == pytest.approx(expected.low)


@pytest.mark.slow
def test_differences_of_views_are_one_family_of_each_table(tmp_path: Path) -> None:
    """Small differences that five of twelve show on their own do not all stay among twelve."""
    shape = replace(BOTH, reuse_cost=0.02, noise=0.004)
    pairs = Analysis(load_results(write_folder(tmp_path / "run", shape).path)).reused
    frame = view_reuse.by_group(pairs)
    keys = ["student", "label", "teacher", "views"]
    raw = [
        scipy.stats.ttest_1samp(own["gain"].astype(float), 0).pvalue
        for _, own in pairs.groupby(keys, sort=False)
    ]
    assert frame["p"].tolist() == pytest.approx(raw)
    assert frame["p_holm"].tolist() == pytest.approx(stats.holm(raw).tolist())
    assert frame["sign"].tolist() == stats.signs_at(frame["gain"], stats.holm(raw))
    alone = np.array(raw) <= 0.05
    assert alone.sum() > (frame["sign"] != "none").sum(), "the family is what decides"
    whole = view_reuse.overall(pairs)
    assert whole["p_holm"].tolist() == pytest.approx(stats.holm(whole["p"]).tolist())


@pytest.mark.slow
def test_the_interval_over_everything_counts_seeds_and_not_cells(both: Path) -> None:
    analysis = Analysis(load_results(both))
    pairs = analysis.reused
    taught = pairs[(pairs["teacher"] != "") & (pairs["views"] == 4)]
    expected = stats.interval(taught.groupby("seed")["gain"].mean().to_numpy())
    row = view_reuse.overall(pairs).set_index("views").loc[4]
    assert (row["n"], row["groups"]) == (4, 4)
    assert (row["gain"], row["gain_low"]) == pytest.approx((expected.mean, expected.low))


@pytest.mark.slow
def test_a_group_that_lacks_a_seed_does_not_tilt_the_mean_over_everything(tmp_path: Path) -> None:
    def missing(cell: Cell) -> bool:
        names = (cell.student.name, cell.method.name, cell.seed)
        return names == ("resnet8", "kd", 0) and cell.train.views == 4

    path = write_folder(tmp_path / "run", replace(BOTH, missing=missing)).path
    pairs = Analysis(load_results(path)).reused
    rows = view_reuse.overall(pairs).set_index("views")
    assert rows["groups"].to_dict() == {2: 4, 4: 3} and rows["n"].to_dict() == {2: 4, 4: 4}
    assert view_reuse.by_group(pairs)["n"].value_counts().to_dict() == {4: 11, 3: 1}


@pytest.mark.slow
def test_what_is_saved_is_the_share_of_passes_whose_view_came_before(both: Path) -> None:
    rows = view_reuse.by_group(Analysis(load_results(both)).reused)
    taught, alone = rows[~rows["is_baseline"]], rows[rows["is_baseline"]]
    assert set(taught.loc[taught["views"] == 2, "saved"]) == {1 - 2 / 8}
    assert set(taught.loc[taught["views"] == 4, "saved"]) == {1 - 4 / 8}
    assert alone["saved"].isna().all(), "no transfer runs no teacher"


def test_epochs_without_a_teacher_are_no_saving() -> None:
    flops = {"late": [0, 0, 5, 5, 10, 15], "whole": [5, 10, 15, 20, 25, 30], "short": [5]}
    curves = pd.DataFrame(
        [
            {"key": key, "epoch": number + 1, "teacher_flops": value}
            for key, values in flops.items()
            for number, value in enumerate(values)
        ]
    )
    same = {"student": "s", "teacher": "t", "seed": 0, "likewise": "", "label": "l"}
    cells = pd.DataFrame(
        [
            {**same, "plain_method": key, "key": f"{key}{views}", "views": views, "accuracy": 0.5}
            for key in flops
            for views in (None, 2)
        ]
    )
    curves["key"] += "2.0"
    cells["key"] = [f"{m}{v}" for m, v in zip(cells["plain_method"], cells["views"], strict=True)]
    saved = view_reuse.paired(cells, curves).set_index("plain_method")["saved"].to_dict()
    # `late` ran it in the epochs 3, 5 and 6, so for the views 0, 0 and 1.
    assert saved == pytest.approx({"late": 1 / 3, "whole": 4 / 6, "short": 0})


@pytest.mark.slow
def test_the_section_and_the_verdict_say_what_views_cost_and_spare(both: Path) -> None:
    words = " ".join(outline(both).words)
    assert "Reused augmentations" in words and "Times are not compared" in words
    assert "2 stored views in turn" in words
    assert "clear among all rows of their table" in words and "Holm's step-down" in words
    found = [s for s in sentences(Analysis(load_results(both))) if "stored views" in s]
    assert len(found) == 2
    assert "**4 stored views**" in found[1] and "saves up to 50.0 %" in found[1]
    table = pd.read_csv(both / "report" / "tables" / "views.csv").set_index("views")
    shown = f"{100 * table['gain'][4]:+.1f} [{100 * table['gain_low'][4]:+.1f}, "
    assert shown.replace("-", "−") in words


@pytest.mark.slow
@pytest.mark.parametrize(
    ("views", "data"),
    [((None,), AUGMENTED), ((4,), AUGMENTED), ((2, 4), AUGMENTED), ((None, 4), DATA)],
    ids=["fresh", "views", "two-of-views", "nothing-augmented"],
)
def test_without_both_kinds_there_is_no_such_section(
    tmp_path: Path, views: tuple[int | None, ...], data: DataSpec
) -> None:
    shape = replace(BOTH, students=("resnet8",), seeds=2, epochs=3, views=views, data=data)
    path = write_folder(tmp_path / "run", shape).path
    write_report(path)
    assert "Reused augmentations" not in " ".join(outline(path).words)
    assert not (path / "report" / "tables" / "views.csv").exists()


# ---------------------------------------------------------------- the other sections


@pytest.mark.slow
def test_views_and_fresh_augmentations_are_never_pooled(both: Path) -> None:
    analysis = Analysis(load_results(both))
    assert analysis.methods[:2] == ["kd", "attention"]
    assert {"kd [views=2]", "kd [views=4]"} < set(analysis.methods)
    for frame in (analysis.gains, analysis.convergence, analysis.costs):
        assert len(frame) == 2 * 3 * 3
    assert set(analysis.gains["n"]) == {4}
    cells = analysis.cells.set_index("key")
    views = cells["views"].fillna(0)
    assert (views == views.reindex(cells["baseline"]).to_numpy()).all(), "compared likewise"


@pytest.mark.slow
def test_a_matrix_trained_in_several_ways_is_told_as_fair(both: Path) -> None:
    words = " ".join(outline(both).words)
    assert "trained as usual and again with [views=2], [views=4]" in words
    assert "Not every cell has the same training" not in words
    assert "no transfer [views=4]" in words and "none [views" not in words
    assert "2 methods and no transfer" in words


@pytest.mark.slow
def test_how_outputs_are_reduced_changes_nothing_for_no_transfer(tmp_path: Path) -> None:
    reduced = NumericSpec(outputs=TeacherOutputs(precision="fp16", sampled=50))

    def change(cell: Cell) -> Cell:
        return cell.model_copy(update={"numeric": reduced}) if cell.teacher else cell

    analysis = write(tmp_path / "run", change)
    assert set(analysis.cells["budget"]) == {""}
    assert (analysis.gains["n"] == 2).all()
    write_report(tmp_path / "run")
    words = " ".join(outline(tmp_path / "run").words)
    assert "Fair comparison: every cell" in words
    assert "50 draws at T = 4, fp16" in words and "fp32, 1 thread, cpu" in words


def test_a_method_is_compared_with_no_transfer_of_its_own_views_whatever_it_reads(
    tmp_path: Path,
) -> None:
    """Outputs that only some methods have reduced do not hide no transfer's own training."""
    outputs = NumericSpec(outputs=TeacherOutputs(sampled=50))

    def change(cell: Cell) -> Cell:
        return cell.model_copy(update={"numeric": outputs} if cell.method.name == "kd" else {})

    cells = write(tmp_path / "run", change, views=(None, 2)).cells
    assert cells.loc[cells["method"] != cells["plain_method"], "budget"].nunique() == 3
    views = cells.set_index("key")["views"].fillna(0)
    assert (views.reindex(cells["baseline"]).to_numpy() == views.to_numpy()).all()


@pytest.mark.parametrize(
    ("numeric", "told"),
    [
        ({"precision": "bf16"}, "precision=bf16"),
        ({"compile": True}, "compile=true"),
        ({"outputs": TeacherOutputs(precision="fp16")}, "outputs.precision=fp16"),
        (
            {"outputs": TeacherOutputs(sampled=50, temperature=2)},
            "outputs.sampled=50, outputs.temperature=2.0",
        ),
    ],
)
def test_numeric_settings_are_named_as_a_matrix_writes_them(
    tmp_path: Path, numeric: dict[str, object], told: str
) -> None:
    odd = NumericSpec.model_validate(numeric)

    def change(cell: Cell) -> Cell:
        is_odd = cell.method.name == "kd" and cell.seed == 0
        return cell.model_copy(update={"numeric": odd}) if is_odd else cell

    cells = write(tmp_path / "run", change).results.cells
    assert set(cells.loc[cells["budget"] != "", "method"]) == {"kd"}
    assert set(cells["budget"]) == {"", told}


def test_fresh_augmentations_have_a_name_where_views_are_usual(tmp_path: Path) -> None:
    def change(cell: Cell) -> Cell:
        views = None if cell.method.name == "kd" and cell.seed == 0 else 4
        return cell.model_copy(update={"train": TrainSpec(epochs=4, views=views)})

    cells = write(tmp_path / "run", change).results.cells
    assert set(cells["budget"]) == {"", "views=fresh"}
