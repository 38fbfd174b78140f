"""Training efficiency in the report: speedups, windows, pools, and what it says of one student."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks._synthetic import Shape, write_folder
from ktbench import stats
from ktbench.records import Cell
from ktbench.report import numbers, scores, sections, write_report
from ktbench.report.analysis import Analysis
from ktbench.report.document import Cards, Figure, Note
from ktbench.report.efficiency import frames, summary, sweeps
from ktbench.report.efficiency.frames import Comparison
from ktbench.report.efficiency.section import efficiency
from ktbench.report.efficiency.sweep_section import pool_figure, window_figure
from ktbench.report.verdict import sentences
from ktbench.results import load_results
from tests.support.efficiency import (
    EPOCHS,
    POOL,
    TEACHER_FLOPS,
    USES,
    plan_of,
    write_efficiency,
)
from tests.support.report_page import outline
from tests.support.running import SMALL, Commands, write_matrix


def compared(folder: Path) -> dict[str, Comparison]:
    frame = Analysis(load_results(folder)).trainings
    return {one.label: one for one in frames.comparisons(frame)}


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


@pytest.mark.slow
def test_the_speedup_is_the_known_one_with_the_teachers_passes_counted(study: Path) -> None:
    """Five points for every factor of two in epochs and five gained: half the epochs are enough.

    A pass of one teacher makes a step 1.3 times as long, during 30 % of the steps 1.09 times, of
    four 2.2 times.
    """
    found = compared(study)
    heads = frames.headlines(list(found.values()))
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


@pytest.mark.slow
def test_the_teachers_training_counts_once_and_every_member_of_a_pool(study: Path) -> None:
    found = compared(study)
    training = {label: one.training["flops"] for label, one in found.items()}
    assert training == {
        "kd ← T0": TEACHER_FLOPS,
        "kd ← T0, 0–30 %": TEACHER_FLOPS,
        "kd ← one of four": len(POOL) * TEACHER_FLOPS,
        "kd ← all four": len(POOL) * TEACHER_FLOPS,
    }
    heads = frames.headlines([found["kd ← T0"]])
    shared = heads[heads["kind"] == "flops"].set_index("students")["speedup"]
    rising = [shared[students] for students in (*frames.SHARED_BY, 0)]
    assert rising == sorted(rising) and rising[0] < 1 < rising[-1]


@pytest.mark.slow
def test_a_teacher_pays_from_the_number_of_students_that_repay_it(study: Path) -> None:
    frame = frames.by_budget([compared(study)["kd ← T0"]]).set_index("epochs")
    assert list(frame.index) == list(EPOCHS)
    # At the accuracy of 64 epochs: 64 · 10⁹ FLOPs without, 32 · 1.3 · 10⁹ with a teacher.
    assert frame.loc[64, "flops_saved"] == pytest.approx(22.4e9, rel=0.15)
    assert frame.loc[64, "flops_pays_from"] == 3
    assert frame.loc[64, "flops_pays_from_low"] <= 3 <= frame.loc[64, "flops_pays_from_high"]
    assert frame.loc[8, "flops_pays_from"] > frame.loc[64, "flops_pays_from"]
    assert math.isnan(frame.loc[4, "flops_speedup"]), "transfer with 4 epochs is better already"
    never = frames.by_budget([compared(study)["kd ← all four"]]).set_index("epochs")
    assert never["flops_pays_from"].isna().all()


@pytest.mark.slow
def test_only_seeds_that_have_every_budget_on_both_sides_count(tmp_path: Path) -> None:
    def missing(cell: Cell) -> bool:
        unfinished = cell.train.epochs == 16 and cell.seed == 1 and cell.teacher is None
        return unfinished or cell.train.epochs == 64

    folder = write_efficiency(tmp_path / "run", plan_of(seeds=3), missing=missing)
    one = compared(folder)["kd ← T0"]
    assert (one.seeds, one.budgets) == ((0, 2), (4, 8, 16, 32))
    assert one.baseline["flops"].cost.shape == one.treated["flops"].cost.shape == (2, 4)


# ---------------------------------------------------------------- windows and pools


@pytest.mark.slow
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


@pytest.mark.slow
def test_the_mean_over_budgets_has_a_figure_per_seed(study: Path) -> None:
    analysis = Analysis(load_results(study))
    frame = sweeps.windows(analysis.trainings)
    row = frame[(frame["epochs"] == 0) & (frame["window"] == "0–30 %")].iloc[0]
    cells = analysis.cells[analysis.cells["teacher"] == "T0"]
    means = cells.groupby(["distill_end", "seed"])["accuracy"].mean()
    expected = stats.paired_gain(means[0.3].to_dict(), means[1.0].to_dict())
    assert expected is not None and row["change_n"] == 5
    assert (row["change"], row["change_high"]) == pytest.approx((expected.mean, expected.high))


@pytest.mark.slow
def test_a_longer_budget_of_no_transfer_alone_is_in_no_mean_and_no_curve(tmp_path: Path) -> None:
    plan = plan_of(USES[:2], seeds=2, epochs=(4, 8, 16))
    cells = tuple(c for c in plan.cells if c.teacher is None or c.train.epochs < 16)
    folder = write_efficiency(tmp_path / "run", plan.model_copy(update={"cells": cells}))
    analysis = Analysis(load_results(folder))
    frame = sweeps.windows(analysis.trainings)
    mean = frame[(frame["epochs"] == 0) & (frame["window"] == "")].iloc[0]
    own = analysis.cells[analysis.cells["epochs"] < 16]
    sides = (own[own["is_baseline"]], own[own["distill_end"] == 1.0])
    plain, whole = (side.groupby("seed")["accuracy"].mean().to_dict() for side in sides)
    expected = stats.paired_gain(whole, plain)
    assert expected is not None and mean["gain_n"] == 2
    assert mean["gain"] == pytest.approx(expected.mean)
    figure = sections.convergence(analysis).parts[0]
    assert isinstance(figure, Figure) and "Only the budget of 8 epochs" in figure.caption


@pytest.mark.slow
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


@pytest.mark.slow
def test_every_window_and_every_use_of_a_pool_is_drawn_with_its_gain_and_its_flops(
    study: Path,
) -> None:
    analysis = Analysis(load_results(study))
    [windows] = window_figure(sweeps.windows(analysis.trainings))
    [pools] = pool_figure(sweeps.pools(analysis, analysis.trainings))
    assert isinstance(windows, Figure) and isinstance(pools, Figure)
    assert "mean over the common budgets" in windows.caption
    drawn = windows.svg.decode()
    frame = sweeps.windows(analysis.trainings)
    for row in frame[frame["epochs"] == 0].to_dict("records"):
        assert f">{row['window'] or 'throughout'}<" in drawn
        assert f">{scores.gain(row['gain'])} · {numbers.ratio(row['flops'])} FLOPs<" in drawn
    for words in ("T0, one, always the same", "one of four, one of 4, drawn"):
        assert f">{words}<" in pools.svg.decode()
    assert window_figure(frame.assign(gain=math.nan)) == [], "nothing to compare with yet"


# ---------------------------------------------------------------- the page


@pytest.mark.slow
def test_the_report_says_when_training_longer_is_better_for_one_student(
    tmp_path: Path, study: Path
) -> None:
    words = said(study)
    assert "training resnet8 longer without transfer is better" in words
    assert "reaches 6" in words, "and what no budget of no transfer reached"
    plan = plan_of(USES[:1], seeds=2, epochs=(64, 128, 256))
    helped = write_efficiency(tmp_path / "run", plan, gain=0.09)
    words = said(helped)
    assert "longer without transfer is better" not in words
    assert "Even if you train a teacher for one student only" in words


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [1, 2])
def test_few_seeds_give_figures_and_one_gives_no_interval(tmp_path: Path, seeds: int) -> None:
    folder = write_efficiency(tmp_path / "run", plan_of(seeds=seeds))
    heads = frames.headlines(list(compared(folder).values()))
    assert heads["speedup"].notna().all()
    assert heads["speedup_low"].isna().all() == (seeds == 1)


@pytest.mark.slow
def test_an_unfinished_study_says_so_and_one_budget_has_no_such_section(tmp_path: Path) -> None:
    nothing = write_efficiency(tmp_path / "a", plan_of(seeds=1), missing=lambda cell: True)
    assert "No seed has finished two budgets" in said(nothing)
    usual = write_folder(tmp_path / "b", Shape(exports=(), devices=(), epochs=2)).path
    assert efficiency(Analysis(load_results(usual))) == ()


# ---------------------------------------------------------------- the verdict


def verdict(folder: Path) -> list[str]:
    return sentences(Analysis(load_results(folder)))[-2:]


@pytest.mark.slow
def test_the_verdict_says_what_is_saved_where_and_from_how_many_students_a_teacher_pays(
    study: Path,
) -> None:
    analysis = Analysis(load_results(study))
    heads = analysis.speedups.set_index(["label", "kind", "students"])
    best = heads.loc["kd ← T0, 0–30 %", "flops", 0]
    saves, pays = verdict(study)
    figure = numbers.speedup(best["speedup"], best["speedup_low"], best["speedup_high"])
    assert saves.startswith("**kd ← T0, 0–30 %** saves training on resnet8: at best it takes")
    assert f"{figure} fewer FLOPs" in saves and f"at {numbers.percent(best['q'])} (n = 5" in saves
    assert f"nowhere from {numbers.percent(best['q_low'])} to" in saves
    row = analysis.by_budget.set_index(["label", "epochs"]).loc["kd ← T0, 0–30 %", 64]
    low, high = row["flops_pays_from_low"], row["flops_pays_from_high"]
    start = "Training the teacher pays off from **2 students** on"
    assert pays.startswith(f"{start} [{low:.0f}, {high:.0f}], at ")
    assert pays.endswith(
        f"{numbers.percent(row['q'])}, the accuracy of 64 epochs without transfer."
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("gain", "seeds", "first", "second"),
    [
        (
            -0.05,
            5,
            "Transfer saves no training: the best, **kd",
            "**never pays off**, however many",
        ),
        (0.0, 5, "It is **undecided** whether transfer saves training: the best", "never pays off"),
        (0.05, 1, "without an interval over seeds: at best", "that is **undecided**, at"),
        (0.03, 2, "It is **undecided** whether", "Training the teacher"),
    ],
    ids=["loss", "nothing", "one-seed", "two-seeds"],
)
def test_the_verdict_claims_no_more_than_the_seeds_show(
    tmp_path: Path, gain: float, seeds: int, first: str, second: str
) -> None:
    saves, pays = verdict(write_efficiency(tmp_path / "run", plan_of(seeds=seeds), gain=gain))
    assert first in saves and second in pays
    if gain <= 0:
        assert "takes" in saves and "training without transfer takes fewer at every" in saves


def test_a_saving_that_may_be_none_leaves_open_when_a_teacher_pays() -> None:
    row = {"label": "kd", "student": "s", "epochs": 8, "q": 0.5, "flops_training": 9.0}
    bounds = {"flops_saved": 2.0, "flops_saved_low": -1.0, "flops_pays_from": 5.0}
    ends = {"flops_pays_from_low": 3.0, "flops_pays_from_high": math.nan}
    frame = pd.DataFrame([row | bounds | ends])
    [said] = summary.pays({"student": "s", "label": "kd"}, frame)
    assert "may pay off from 3 students on, or never: **undecided**" in said
    assert "(5 students by the mean)" in said
    gone = frame.assign(flops_saved=-0.5, flops_pays_from=math.nan)
    [said] = summary.pays({"student": "s", "label": "kd"}, gone)
    assert "may pay off from 3 students on, or never: **undecided**" in said
    [said] = summary.pays({"student": "s", "label": "kd"}, frame.assign(flops_training=math.nan))
    assert "is unknown" in said


# ---------------------------------------------------------------- families, names of budgets


@pytest.mark.slow
def test_a_sweeps_signs_and_a_tables_speedups_are_judged_among_all_their_rows(study: Path) -> None:
    analysis = Analysis(load_results(study))
    windows = sweeps.windows(analysis.trainings)
    adjusted = stats.holm(windows["gain_p"])
    assert windows["gain_p_holm"].tolist() == pytest.approx(adjusted.tolist(), nan_ok=True)
    assert windows["gain_sign"].tolist() == stats.signs_at(windows["gain"], adjusted)
    bounded = windows.dropna(subset=["change_p"])
    assert (bounded["change_p_holm"] >= bounded["change_p"]).all()
    assert (bounded["change_p_holm"] > bounded["change_p"]).any()
    budgets = analysis.by_budget
    adjusted = stats.holm(budgets["flops_p"])
    assert budgets["flops_p_holm"].tolist() == pytest.approx(adjusted.tolist(), nan_ok=True)
    for _, own in analysis.speedups.groupby(["kind", "students"]):
        assert own["sign"].tolist() == stats.signs_at(np.log(own["speedup"]), stats.holm(own["p"]))
    assert "clear among all rows of a column" in said(study)


@pytest.mark.slow
def test_every_budget_has_its_name_and_curves_are_those_of_the_longest(study: Path) -> None:
    analysis = Analysis(load_results(study))
    methods = set(analysis.methods)
    assert {f"kd [epochs={epochs}]" for epochs in EPOCHS} < methods and "kd" not in methods
    labels = set(analysis.gains.loc[analysis.gains["is_baseline"], "label"])
    assert labels == {f"no transfer [epochs={epochs}]" for epochs in EPOCHS}
    figure = sections.convergence(analysis).parts[0]
    assert isinstance(figure, Figure) and "Only the budget of 64 epochs" in figure.caption
    drawn = figure.svg.decode()
    assert ">no transfer<" in drawn and ">kd ← T0<" in drawn and "epochs=" not in drawn


@pytest.mark.slow
def test_a_swept_budget_and_a_window_are_no_unfairness(study: Path) -> None:
    section = sections.fairness(Analysis(load_results(study)))
    notes = [part for part in section.parts if isinstance(part, Note)]
    assert [note.kind for note in notes] == ["good", "muted"]
    assert "during only a part of the training" in notes[0].text
    [cards] = [part for part in section.parts if isinstance(part, Cards)]
    assert ("epochs", "4, 8, 16, 32, 64") in cards.cards[1].facts


# ---------------------------------------------------------------- a real study


@pytest.mark.slow
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


@pytest.mark.slow
def test_sides_that_reach_nothing_in_common_are_told_and_not_compared(tmp_path: Path) -> None:
    plan = plan_of(USES[:1], seeds=2, epochs=(4, 8))
    words = said(write_efficiency(tmp_path / "run", plan, gain=0.4))
    assert "less was not tried" in words and "×" not in words
