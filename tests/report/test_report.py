"""The report: right figures, every state of a folder, the same bytes each time."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks._synthetic import (
    PROVENANCE,
    Shape,
    plan_of,
    result_of,
    write_folder,
)
from ktbench import stats
from ktbench.records import (
    Cell,
    Failure,
    TrainSpec,
)
from ktbench.report import write_report
from ktbench.report.analysis import Analysis
from ktbench.report.best_techniques import best_sentences
from ktbench.report.verdict import best_methods, sentences
from ktbench.results import ResultsFolder, load_results
from tests.support.report_page import outline, page

NAN = "loss term 'hint' became nan at step 31"


def failed(cell: Cell) -> Failure | None:
    names = (cell.method.name, cell.student.name)
    if names == ("fitnet", "vgg_shallow"):
        return Failure(stage="train", reason=NAN, step=31)
    if names == ("kd", "resnet8") and cell.seed == 1:
        return Failure(stage="export", what="tflite-int8", reason="agreement 0.71 < 0.9")
    return None


def skipped(cell: Cell) -> str | None:
    odd = cell.method.name == "attention" and cell.student.name == "vgg_thin"
    return "needs four stages" if odd else None


TROUBLED = Shape(failed=failed, skipped=skipped, epochs=6)


@pytest.fixture(scope="module")
def troubled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "run"
    write_folder(path, TROUBLED)
    write_report(path)
    return path


# ---------------------------------------------------------------- the files


@pytest.mark.slow
def test_the_page_is_one_file_that_asks_nothing_of_a_network(troubled: Path) -> None:
    found = outline(troubled)
    assert all(a.startswith(("data:", "#")) for a in found.addresses)
    assert {a[1:] for a in found.addresses if a.startswith("#")} <= found.anchors
    assert "url(" not in page(troubled) and "@import" not in page(troubled)
    assert "default-src 'none'" in page(troubled)


@pytest.mark.slow
def test_every_figure_is_there_as_svg_and_png_and_every_link_of_the_markdown_leads_somewhere(
    troubled: Path,
) -> None:
    report = troubled / "report"
    svg, png = ({p.stem for p in report.glob(f"figures/*.{e}")} for e in ("svg", "png"))
    assert svg == png == {"gains", "convergence", "latency", "size"}
    for path in report.glob("figures/*.svg"):
        ET.fromstring(path.read_text(encoding="utf-8"))
    links = re.findall(r"\]\(([^)]+)\)", (report / "report.md").read_text(encoding="utf-8"))
    assert links and all((report / link).is_file() for link in links)


@pytest.mark.slow
def test_the_same_folder_gives_the_same_bytes(troubled: Path) -> None:
    report = troubled / "report"
    before = {p: p.read_bytes() for p in report.rglob("*") if p.is_file()}
    write_report(troubled)
    assert {p: p.read_bytes() for p in report.rglob("*") if p.is_file()} == before


@pytest.mark.slow
def test_figures_of_an_earlier_report_do_not_stay(troubled: Path) -> None:
    stale = troubled / "report" / "figures" / "latency-9.svg"
    other = troubled / "report" / "figures" / "mine.txt"
    stale.write_text("<svg/>")
    other.write_text("kept")
    write_report(troubled)
    assert not stale.exists() and other.exists()
    other.unlink()


@pytest.mark.slow
def test_a_table_on_the_page_and_its_csv_tell_the_same(troubled: Path) -> None:
    gains = pd.read_csv(troubled / "report" / "tables" / "gains.csv")
    row = gains[(gains["student"] == "vgg_shallow") & (gains["method"] == "kd")].iloc[0]
    shown = (
        f"{100 * row['gain']:+.1f} [{100 * row['gain_low']:+.1f}, {100 * row['gain_high']:+.1f}]"
    )
    assert shown.replace("-", "−") in page(troubled)


# ---------------------------------------------------------------- the figures


def test_a_gain_is_the_paired_difference_of_test_accuracies(troubled: Path) -> None:
    analysis = Analysis(load_results(troubled))
    cells = load_results(troubled).cells
    for group in analysis.gains.to_dict("records"):
        own, base = (
            cells[(cells["student"] == group["student"]) & (cells["method"] == method)]
            .dropna(subset=["accuracy_itt"])
            .set_index("seed")["accuracy_itt"]
            .to_dict()
            for method in (group["method"], "none")
        )
        expected = stats.paired_gain(own, base)
        if expected is None:
            assert group["n"] == 0 and np.isnan(group["gain"])
            continue
        assert (group["n"], group["gain"]) == (expected.n, pytest.approx(expected.mean))
        if not group["own_failures"]:
            assert group["alone"] == expected.sign


def test_the_best_method_is_chosen_on_validation_and_never_on_test(tmp_path: Path) -> None:
    folder = ResultsFolder(tmp_path / "run")
    shape = Shape(students=("resnet8",), gains={"kd": 0.0, "fitnet": 0.0}, devices=())
    plan = plan_of(shape)
    level = {"none": (0.5, 0.5), "kd": (0.9, 0.6), "fitnet": (0.6, 0.9)}
    with folder.open(plan, "", PROVENANCE):
        for cell in plan.cells:
            result = result_of(folder, cell, shape)
            checkpoint = result.checkpoint
            assert checkpoint is not None
            validation, test = level[cell.method.name]
            accuracy = checkpoint.accuracy.model_copy(
                update={
                    "validation_last": validation,
                    "validation_best": 1.0,
                    "test_last": test + 0.01 * cell.seed**2,
                }
            )
            changed = checkpoint.model_copy(update={"accuracy": accuracy})
            folder.write_result(result.model_copy(update={"checkpoint": changed}))
    analysis = Analysis(load_results(folder.path))
    assert best_methods(analysis)["method"].tolist() == ["kd"]


def test_time_to_the_target_counts_the_first_epoch_that_reaches_it(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "run", Shape(students=("resnet8",), epochs=8)).path
    analysis = Analysis(load_results(path))
    curves, cells = analysis.results.curves, analysis.cells.set_index("key")
    arrivals = analysis.arrivals.set_index("key")
    assert set(arrivals.index) == set(cells.index)
    for key, cell in cells.iterrows():
        own = curves[curves["key"] == key].reset_index()
        target = curves[curves["key"] == cell["baseline"]]["validation_accuracy"].iloc[-1]
        index = stats.first_reaching(own["validation_accuracy"].to_numpy(), target)
        if index is None:
            assert np.isnan(arrivals["epoch"][key])
        else:
            assert arrivals["epoch"][key] == own["epoch"][index]
            assert arrivals["teacher_flops"][key] == own["teacher_flops"][index]


@pytest.mark.slow
def test_a_seed_that_never_reaches_the_target_is_counted_and_not_averaged(tmp_path: Path) -> None:
    shape = Shape(students=("resnet8",), gains={"fitnet": -0.3}, epochs=8)
    path = write_folder(tmp_path / "run", shape).path
    frame = Analysis(load_results(path)).convergence.set_index("method")
    assert frame.loc["fitnet", ["reached", "seeds"]].tolist() == [0, 3]
    assert np.isnan(float(str(frame.loc["fitnet", "flops"])))
    write_report(path)
    assert "0 of 3" in page(path)


@pytest.mark.slow
def test_a_method_with_another_budget_stands_alone_and_the_report_says_so(tmp_path: Path) -> None:
    shape = Shape(students=("resnet8",), gains={"kd": 0.03}, epochs=4, devices=())
    plan = plan_of(shape)
    longer = [
        c.model_copy(update={"train": TrainSpec(epochs=9)}) if c.method.name == "kd" else c
        for c in plan.cells
    ]
    extra = [c for c in plan.cells if c.method.name == "kd" and c.seed == 0]
    folder = ResultsFolder(tmp_path / "run")
    odd = plan.model_copy(update={"cells": (*longer, *extra, *_padding(plan.cells))})
    with folder.open(odd, "", PROVENANCE):
        for cell in odd.cells:
            folder.write_result(result_of(folder, cell, shape))
    write_report(folder.path)
    words = " ".join(outline(folder.path).words)
    assert "Not every cell has the same training: kd [epochs=9] (3 cells)" in words
    gains = Analysis(load_results(folder.path)).gains
    assert gains.set_index("method")["n"].to_dict()["kd [epochs=9]"] == 3


def _padding(cells: tuple[Cell, ...]) -> list[Cell]:
    """More cells of the usual budget, so that it is the usual one."""
    return [c.model_copy(update={"seed": c.seed + 10}) for c in cells if c.method.name == "none"]


# ---------------------------------------------------------------- the page's words


def test_failures_and_skips_are_on_the_page_with_their_reasons(troubled: Path) -> None:
    words = " ".join(outline(troubled).words)
    assert NAN in words
    assert "agreement 0.71 < 0.9" in words
    assert "needs four stages" in words
    svg = (troubled / "report" / "figures" / "gains.svg").read_text(encoding="utf-8")
    assert ">failed<" in svg and ">skipped<" in svg


def after_the_best(analysis: Analysis) -> list[str]:
    """The verdict's sentences after those on which technique is best."""
    lines = best_sentences(analysis)
    assert lines and sentences(analysis)[: len(lines)] == lines
    return sentences(analysis)[len(lines) :]


@pytest.mark.slow
def test_the_headline_names_the_largest_clear_gain_and_the_largest_clear_loss(
    tmp_path: Path,
) -> None:
    shape = Shape(gains={"kd": 0.08, "fitnet": -0.08, "attention": 0.0}, noise=0.001, seeds=4)
    path = write_folder(tmp_path / "run", shape).path
    found = after_the_best(Analysis(load_results(path)))
    assert re.match(r"\*\*kd\*\* gains \+\d\.\d points \[\+\d\.\d, \+\d\.\d\] \(n = 4\)", found[0])
    assert re.match(r"\*\*fitnet\*\* hurts on \w+: −\d\.\d points \[", found[1])
    assert "On **local** the most accurate is" in found[2] and "ms measured" in found[2]
    assert "fewer epochs" in found[3]


@pytest.mark.slow
def test_one_seed_gives_figures_without_a_claim(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "run", Shape(seeds=1, epochs=3)).path
    write_report(path)
    found = after_the_best(Analysis(load_results(path)))
    assert "that takes at least 3 seeds that differ: run 4 more seeds" in found[0]
    assert not any("gains" in s or "hurts" in s for s in found[1:])
    assert "clear gains" in page(path) and "cannot be judged" in page(path)


@pytest.mark.slow
def test_names_from_the_matrix_cannot_become_markup(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>|$x_1$ & **b**"
    folder = ResultsFolder(tmp_path / "run")
    shape = Shape(students=(evil,), gains={"kd": 0.03}, seeds=2, epochs=3)
    plan = plan_of(shape).model_copy(update={"name": evil})
    with folder.open(plan, "", PROVENANCE):
        for cell in plan.cells:
            folder.write_result(result_of(folder, cell, shape))
    write_report(folder.path)
    assert page(folder.path).count("<script") == 2  # the page's own
    assert "<script" not in (folder.path / "report" / "report.md").read_text(encoding="utf-8")
    outline(folder.path)
    for path in (folder.path / "report" / "figures").glob("*.svg"):
        ET.fromstring(path.read_text(encoding="utf-8"))
