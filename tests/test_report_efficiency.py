"""Training efficiency in the report: speedups, windows, pools, and what it says of one student."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest

from benchmarks._synthetic import Shape, write_folder
from ktbench import stats
from ktbench.records import Cell
from ktbench.report import quality_cost, sweeps, write_report
from ktbench.report.analysis import Analysis
from ktbench.report.quality_cost import Comparison
from ktbench.report.sections.efficiency import efficiency
from ktbench.results import load_results
from tests.efficiency import (
    EPOCHS,
    POOL,
    TEACHER_FLOPS,
    USES,
    plan_of,
    write_efficiency,
)
from tests.report_page import outline
from tests.running import SMALL, Commands, write_matrix


def compared(folder: Path) -> dict[str, Comparison]:
    frame = Analysis(load_results(folder)).trainings
    return {one.label: one for one in quality_cost.comparisons(frame)}


def said(folder: Path) -> str:
    """Every word of the section."""
    (section,) = efficiency(Analysis(load_results(folder)))
    words = [section.lead]
    for part in section.parts:
        words.append(getattr(part, "text", getattr(part, "caption", "")))
        words += [box.text for row in getattr(part, "rows", ()) for box in row]
    return " ".join(words)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_efficiency(tmp_path_factory.mktemp("efficiency") / "run")


# ---------------------------------------------------------------- speedups


def test_the_speedup_is_the_known_one_with_the_teachers_passes_counted(study: Path) -> None:
    """Five points for every factor of two in epochs and five gained: half the epochs are enough.

    A pass of one teacher makes a step 1.3 times as long, during 30 % of the steps 1.09 times, of
    four 2.2 times.
    """
    found = compared(study)
    heads = quality_cost.headlines(list(found.values()))
    alone = heads[(heads["students"] == 0) & (heads["kind"] == "flops")].set_index("label")
    known = {
        "kd ← T0": 2 / 1.3,
        "kd ← T0, 0–30 %": 2 / 1.09,
        "kd ← one of four": 2 / 1.3,
        "kd ← all four": 2 / 2.2,
    }
    assert set(alone.index) == set(known)
    for label, speedup in known.items():
        assert alone.loc[label, "speedup"] == pytest.approx(speedup, rel=0.1)
        assert alone.loc[label, "speedup_low"] < speedup < alone.loc[label, "speedup_high"]
    assert alone.loc["kd ← T0", "below"] == ""
    assert alone.loc["kd ← all four", "below"] != ""
    seconds = heads[(heads["students"] == 0) & (heads["kind"] == "seconds")].set_index("label")
    assert seconds["speedup"].to_dict() == pytest.approx(alone["speedup"].to_dict())


def test_the_teachers_training_counts_once_and_every_member_of_a_pool(study: Path) -> None:
    found = compared(study)
    training = {label: one.training["flops"] for label, one in found.items()}
    assert training == {
        "kd ← T0": TEACHER_FLOPS,
        "kd ← T0, 0–30 %": TEACHER_FLOPS,
        "kd ← one of four": len(POOL) * TEACHER_FLOPS,
        "kd ← all four": len(POOL) * TEACHER_FLOPS,
    }
    heads = quality_cost.headlines([found["kd ← T0"]])
    shared = heads[heads["kind"] == "flops"].set_index("students")["speedup"]
    rising = [shared[students] for students in (*quality_cost.SHARED_BY, 0)]
    assert rising == sorted(rising) and rising[0] < 1 < rising[-1]


def test_a_teacher_pays_from_the_number_of_students_that_repay_it(study: Path) -> None:
    frame = quality_cost.by_budget([compared(study)["kd ← T0"]]).set_index("epochs")
    assert list(frame.index) == list(EPOCHS)
    # At the accuracy of 64 epochs: 64 · 10⁹ FLOPs without, 32 · 1.3 · 10⁹ with a teacher.
    assert frame.loc[64, "flops_saved"] == pytest.approx(22.4e9, rel=0.15)
    assert frame.loc[64, "flops_pays_from"] == 3
    assert frame.loc[64, "flops_pays_from_low"] <= 3 <= frame.loc[64, "flops_pays_from_high"]
    assert frame.loc[8, "flops_pays_from"] > frame.loc[64, "flops_pays_from"]
    assert math.isnan(frame.loc[4, "flops_speedup"]), "transfer with 4 epochs is better already"
    never = quality_cost.by_budget([compared(study)["kd ← all four"]]).set_index("epochs")
    assert never["flops_pays_from"].isna().all()


def test_only_seeds_that_have_every_budget_on_both_sides_count(tmp_path: Path) -> None:
    def missing(cell: Cell) -> bool:
        unfinished = cell.train.epochs == 16 and cell.seed == 1 and cell.teacher is None
        return unfinished or cell.train.epochs == 64

    folder = write_efficiency(tmp_path / "run", plan_of(seeds=3), missing=missing)
    one = compared(folder)["kd ← T0"]
    assert (one.seeds, one.budgets) == ((0, 2), (4, 8, 16, 32))
    assert one.baseline["flops"].cost.shape == one.treated["flops"].cost.shape == (2, 4)


# ---------------------------------------------------------------- windows and pools


def test_a_windows_change_is_paired_by_seed_with_transfer_throughout(study: Path) -> None:
    analysis = Analysis(load_results(study))
    frame = sweeps.windows(analysis.trainings)
    assert list(frame["window"]) == ["", "0–30 %"] * (len(EPOCHS) + 1)
    row = frame[(frame["epochs"] == 16) & (frame["window"] == "0–30 %")].iloc[0]
    cells = analysis.cells
    whole, part = (
        cells[(cells["teacher"] == "T0") & (cells["epochs"] == 16) & (cells["distill_end"] == end)]
        .set_index("seed")["accuracy"]
        .to_dict()
        for end in (1.0, 0.3)
    )
    expected = stats.paired_gain(part, whole)
    assert expected is not None and row["change_n"] == 5
    assert (row["change"], row["change_low"]) == pytest.approx((expected.mean, expected.low))
    assert row["teacher_share"] == pytest.approx(0.3 * 0.3 / 1.09)
    assert row["flops"] == pytest.approx(1.09 / 1.3)


def test_the_mean_over_budgets_has_a_figure_per_seed(study: Path) -> None:
    analysis = Analysis(load_results(study))
    frame = sweeps.windows(analysis.trainings)
    row = frame[(frame["epochs"] == 0) & (frame["window"] == "0–30 %")].iloc[0]
    cells = analysis.cells[analysis.cells["teacher"] == "T0"]
    means = cells.groupby(["distill_end", "seed"])["accuracy"].mean()
    expected = stats.paired_gain(means[0.3].to_dict(), means[1.0].to_dict())
    assert expected is not None and row["change_n"] == 5
    assert (row["change"], row["change_high"]) == pytest.approx((expected.mean, expected.high))


def test_a_pools_uses_stand_beside_each_other_with_what_they_cost(study: Path) -> None:
    analysis = Analysis(load_results(study))
    frame = sweeps.pools(analysis, analysis.trainings)
    own = frame[frame["epochs"] == 32].set_index("teacher")
    assert own["drawn"].to_dict() == {"T0": 1, "one of four": 1, "all four": 4}
    assert own["members"].to_dict() == {"T0": 1, "one of four": 4, "all four": 4}
    assert own["flops"].to_dict() == pytest.approx(
        {"T0": 1.3 / 2.2, "one of four": 1.3 / 2.2, "all four": 1.0}
    )
    assert own.loc["T0", "training_flops"] * 4 == own.loc["one of four", "training_flops"]
    assert math.isnan(own.loc["all four", "change"]) and own.loc["T0", "change_n"] == 5


# ---------------------------------------------------------------- the page


def test_the_report_says_when_training_longer_is_better_for_one_student(
    tmp_path: Path, study: Path
) -> None:
    words = said(study)
    assert "training resnet8 longer without transfer is better" in words
    assert "goes up to 6" in words, "and what no budget of no transfer reached"
    plan = plan_of(USES[:1], seeds=2, epochs=(64, 128, 256))
    helped = write_efficiency(tmp_path / "run", plan, gain=0.09)
    words = said(helped)
    assert "longer without transfer is better" not in words
    assert "Even when a teacher has to be trained for one student" in words


def test_the_page_has_the_section_its_figures_and_its_tables(tmp_path: Path) -> None:
    study = write_efficiency(tmp_path / "run", plan_of(seeds=2, epochs=(4, 8)))
    write_report(study)
    found = outline(study)
    words = " ".join(found.words)
    assert "Training efficiency" in words and "efficiency" in found.anchors
    assert "average of all 4" in words and "one of 4, drawn" in words and "0–30 %" in words
    for name in ("efficiency-cost", "efficiency-speedup"):
        assert (study / "report" / "figures" / f"{name}.svg").stat().st_size > 1000
    table = pd.read_csv(study / "report" / "tables" / "efficiency.csv")
    assert set(table["kind"]) == {"flops", "seconds"} and (table["n"] == 2).all()


@pytest.mark.parametrize("seeds", [1, 2])
def test_few_seeds_give_figures_and_one_gives_no_interval(tmp_path: Path, seeds: int) -> None:
    folder = write_efficiency(tmp_path / "run", plan_of(seeds=seeds))
    heads = quality_cost.headlines(list(compared(folder).values()))
    assert heads["speedup"].notna().all()
    assert heads["speedup_low"].isna().all() == (seeds == 1)


def test_an_unfinished_study_says_so_and_one_budget_has_no_such_section(tmp_path: Path) -> None:
    nothing = write_efficiency(tmp_path / "a", plan_of(seeds=1), missing=lambda cell: True)
    assert "No seed has finished two budgets" in said(nothing)
    usual = write_folder(tmp_path / "b", Shape(exports=(), devices=(), epochs=2)).path
    assert efficiency(Analysis(load_results(usual))) == ()


# ---------------------------------------------------------------- a real study


def test_a_real_study_of_budgets_windows_and_a_pool_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Digits in a few seconds: what the accuracies are is chance, what they cost is not."""
    ktbench = Commands(tmp_path, monkeypatch, capsys)
    network = SMALL["teachers"][0]["student"]
    write_matrix(
        tmp_path / "matrix.yaml",
        teachers=[
            {"student": network, "name": "T"},
            {
                "name": "P",
                "sample": [1, 2],
                "of": ["T", {"student": network, "name": "U", "seed": 1}],
            },
        ],
        budget=[1, 2],
        distill={"end": [0.5, 1]},
        exclude=[{"teacher": "P*", "windowed": True}],
    )
    answer = ktbench("run", "matrix.yaml", "--results", "run")
    assert answer.code == 0, answer.err
    analysis = Analysis(load_results(tmp_path / "run"))
    frame = analysis.trainings
    assert len(frame) == 2 * 5
    longest = frame[frame["epochs"] == 2].set_index(["teacher", "window"])
    one, passes = longest.loc["T", ""], longest["teacher_flops"]
    assert one["flops"] - passes["T", ""] == pytest.approx(longest.loc["", ""]["flops"], rel=0.02)
    assert passes["P(sample=2)", ""] == pytest.approx(2 * passes["T", ""])
    assert passes["P(sample=1)", ""] == pytest.approx(passes["T", ""])
    assert passes["T", "0–50 %"] == pytest.approx(passes["T", ""] / 2)
    training = frame.groupby("teacher")["training_flops"].first()
    assert training["P(sample=1)"] == training["P(sample=2)"] == 2 * training["T"] > 0
    words = said(tmp_path / "run")
    assert "average of all 2" in words and "0–50 %" in words and "mean of all" in words


def test_sides_that_reach_nothing_in_common_are_told_and_not_compared(tmp_path: Path) -> None:
    plan = plan_of(USES[:1], seeds=2, epochs=(4, 8))
    words = said(write_efficiency(tmp_path / "run", plan, gain=0.4))
    assert "less was not tried" in words and "×" not in words
