"""The report of folders of every kind: unfinished, many devices, many methods, odd names."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from benchmarks._synthetic import (
    EXPORTS,
    LOCAL,
    PROVENANCE,
    Shape,
    measurement_of,
    plan_of,
    result_of,
    slower,
    write_folder,
)
from ktbench.records import DeviceSpec, Failure, Item, KtbenchError, Statistic, Validity
from ktbench.report import sections, write_report
from ktbench.report.analysis import Analysis
from ktbench.report.document import ROWS_SHOWN, Cards
from ktbench.report.verdict import sentences, verdict_table
from ktbench.results import ResultsFolder, load_results
from tests.support.report_page import outline, page


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "words"),
    [
        (Shape(missing=lambda c: True, seeds=1), "No cell has been trained yet"),
        (Shape(missing=lambda c: c.seed > 0, seeds=3, epochs=3), "cells not run yet"),
        (Shape(missing=lambda c: c.method.name == "none", epochs=3), "no pair of cells"),
        (Shape(devices=(), epochs=3), "The matrix names no device"),
        (Shape(devices=(), exports=(), epochs=3), "Nothing has been exported"),
        (Shape(gains={}, teachers=(), epochs=3), "no pair of cells"),
        (Shape(epochs=1, seeds=2), "Fair comparison"),
        (
            Shape(failed=lambda c: Failure(stage="train", reason="out of luck"), seeds=2),
            "out of luck",
        ),
    ],
    ids=[
        "nothing",
        "killed",
        "no-baseline",
        "no-device",
        "no-export",
        "only-none",
        "one-epoch",
        "all-failed",
    ],
)
def test_an_unfinished_folder_gives_a_report_that_says_so(
    tmp_path: Path, shape: Shape, words: str
) -> None:
    path = write_folder(tmp_path / "run", shape).path
    assert write_report(path) == path / "report" / "index.html"
    assert words in " ".join(outline(path).words)


@pytest.mark.slow
def test_every_teacher_has_a_map_of_its_own(tmp_path: Path) -> None:
    shape = Shape(students=("resnet8",), gains={"kd": 0.03}, teachers=("big", "small"), epochs=3)
    path = write_folder(tmp_path / "run", shape).path
    write_report(path)
    assert {p.name for p in path.glob("report/figures/gains*.svg")} == {
        "gains-1.svg",
        "gains-2.svg",
    }
    assert "kd ← small" in page(path)


@pytest.mark.slow
def test_measured_and_emulated_figures_never_share_a_column(tmp_path: Path) -> None:
    board = DeviceSpec(profile="ssh", name="board", host="board.local")
    shape = Shape(students=("resnet8",), gains={"kd": 0.03}, epochs=3, devices=(LOCAL, board))
    folder = write_folder(tmp_path / "run", Shape(**{**vars(shape), "devices": (LOCAL,)}))
    plan = plan_of(shape)
    emulated = measurement_of(plan.cells[0], EXPORTS[0], board, origin="emulated")
    with folder.open(plan, "", PROVENANCE, data_digest="d" * 16):
        folder.write_measurement(emulated)
    write_report(folder.path)
    shown = page(folder.path)
    assert "p50, ms (measured)" in shown and "p50, ms (emulated)" in shown
    for path in (folder.path / "report" / "tables").glob("*.csv"):
        frame = pd.read_csv(path)
        latencies = [c for c in frame.columns if "_ms" in c]
        assert all(c.endswith(("_measured", "_emulated")) for c in latencies), path
        for column in latencies:
            origins = set(frame.loc[frame[column].notna(), "origin"])
            assert origins <= {column.rsplit("_", 1)[1]}


@pytest.mark.slow
def test_energy_and_scenarios_have_tables_with_a_column_for_each_origin(tmp_path: Path) -> None:
    names = ("pi", "fake", "batches", "long")
    pi, fake, batches, long = (DeviceSpec(profile="ssh", name=n, host="pi") for n in names)
    batches = batches.model_copy(update={"scenario": "offline"})
    long = long.model_copy(update={"scenario": "sustained"})
    shape = Shape(students=("resnet8",), gains={"kd": 0.03}, epochs=3, devices=(LOCAL,))
    folder = write_folder(tmp_path / "run", shape)
    plan = plan_of(shape).model_copy(update={"devices": (LOCAL, pi, fake, batches, long)})
    energy = {"energy_mj": Statistic(value=12.3, low=12, high=13), "power_source": "pmic: A + B"}
    with folder.open(plan, "", PROVENANCE, data_digest="d" * 16):
        for device, origin, changes in (
            (pi, "measured", energy),
            (fake, "emulated", energy | {"energy_mj": Statistic(value=45.6, low=45, high=46)}),
            (batches, "measured", {"inputs_per_s": Statistic(value=7890, low=1, high=8000)}),
            (long, "measured", {"slowdown": 1.25, "hottest_c": 79.5}),
        ):
            found = measurement_of(plan.cells[0], EXPORTS[0], device, origin=origin)
            folder.write_measurement(found.model_copy(update=changes))
    write_report(folder.path)
    tables = folder.path / "report" / "tables"
    frame = pd.read_csv(tables / "energy.csv")
    assert frame["energy_mj_measured"].dropna().tolist() == [12.3]
    assert frame["energy_mj_emulated"].dropna().tolist() == [45.6]
    assert pd.read_csv(tables / "offline.csv")["inputs_per_s_measured"].tolist() == [7890]
    assert pd.read_csv(tables / "sustained.csv")["slowdown_measured"].tolist() == [1.25]
    shown = page(folder.path)
    for words in ("energy, mJ (measured)", "energy, mJ (emulated)", "pmic: A", "79.5"):
        assert words in shown, words


@pytest.mark.slow
def test_accuracy_on_a_board_stands_beside_the_hosts_with_what_kind_of_board_it_was(
    tmp_path: Path,
) -> None:
    pi, arm = (DeviceSpec(profile="ssh", name=name, host=name) for name in ("pi", "arm"))
    shape = Shape(students=("resnet8",), gains={"kd": 0.03}, epochs=3, devices=(LOCAL,))
    folder = write_folder(tmp_path / "run", shape)
    plan = plan_of(shape).model_copy(update={"devices": (LOCAL, pi, arm)})
    cell = plan.cells[0]
    with folder.open(plan, "", PROVENANCE, data_digest="d" * 16):
        for device, origin, accuracy in ((pi, "measured", 0.5), (arm, "emulated", 0.25)):
            found = measurement_of(cell, EXPORTS[0], device, origin=origin)
            answers = {"test_accuracy": accuracy, "test_agreement": 0.975, "test_inputs": 360}
            folder.write_measurement(found.model_copy(update=answers))
    write_report(folder.path)
    frame = pd.read_csv(folder.path / "report" / "tables" / "on-board.csv")
    here = load_results(folder.path).artifacts.set_index(["key", "export"])["test_accuracy"]
    expected = here[cell.key, EXPORTS[0].label]
    assert frame["accuracy_here"].tolist() == [expected] * 2
    assert frame["board_accuracy_measured"].dropna().tolist() == [0.5]
    assert frame["board_accuracy_emulated"].dropna().tolist() == [0.25]
    assert frame["board_difference_measured"].dropna().tolist() == [pytest.approx(0.5 - expected)]
    shown = page(folder.path)
    for words in ("accuracy there (measured)", "agreement with torch (emulated)", "97.5 %"):
        assert words in shown, words


@pytest.mark.slow
def test_an_invalid_measurement_is_shown_with_its_reason_and_decides_nothing(
    tmp_path: Path,
) -> None:
    shape = Shape(students=("resnet8",), gains={"kd": 0.03}, epochs=3, devices=())
    folder = write_folder(tmp_path / "run", shape)
    plan = plan_of(shape).model_copy(update={"devices": (LOCAL,)})
    bad = Validity(reasons=("the governor changed",))
    with folder.open(plan, "", PROVENANCE, data_digest="d" * 16):
        folder.write_measurement(measurement_of(plan.cells[0], EXPORTS[0], LOCAL, validity=bad))
        folder.write_failures([Failure(stage="measure", what="pi", reason="no route to host")])
    write_report(folder.path)
    words = " ".join(outline(folder.path).words)
    assert "invalid: the governor changed" in words and "0 of 1 measurement valid" in words
    assert "No valid measurement yet" in words and "no route to host" in words
    assert not any("On **" in s for s in sentences(Analysis(load_results(folder.path))))


def test_warnings_that_differ_in_their_figures_alone_are_one_with_the_range(tmp_path: Path) -> None:
    shape = Shape(students=("resnet8",), gains={}, epochs=2, devices=())
    folder = write_folder(tmp_path / "run", shape)
    plan = plan_of(shape).model_copy(update={"devices": (LOCAL,)})
    shares = (13, 9, 104)
    with folder.open(plan, "", PROVENANCE, data_digest="d" * 16):
        for share, export in zip(shares, EXPORTS, strict=False):
            warned = Validity(warnings=(f"unsteady: {share}% of the mean", "below 0.1 ms"))
            found = measurement_of(plan.cells[0], export, LOCAL, validity=warned)
            folder.write_measurement(found)
    [cards] = [
        part
        for part in sections.devices(Analysis(load_results(folder.path))).parts
        if isinstance(part, Cards)
    ]
    assert [note.text for note in cards.cards[0].notes[1:]] == [
        "unsteady: 9–104% of the mean (3×)",
        "below 0.1 ms (3×)",
    ]


def test_the_verdict_lists_devices_in_the_order_of_the_matrix(tmp_path: Path) -> None:
    slow, quick = (DeviceSpec(profile="local", name=name) for name in ("slow", "quick"))
    shape = Shape(students=("resnet8",), gains={}, epochs=2, devices=())
    folder = write_folder(tmp_path / "run", shape)
    plan = plan_of(shape).model_copy(update={"devices": (slow, quick)})
    with folder.open(plan, "", PROVENANCE, data_digest="d" * 16):
        for device, milliseconds in ((slow, 0.9), (quick, 0.2)):
            found = measurement_of(plan.cells[0], EXPORTS[0], device)
            folder.write_measurement(slower(found, milliseconds))
    rows = verdict_table(Analysis(load_results(folder.path))).frame
    assert rows["device"].tolist() == ["slow", "quick"]


@pytest.mark.slow
def test_files_that_differ_in_weights_alone_are_a_noise_check(tmp_path: Path) -> None:
    shape = Shape(students=("resnet8",), gains={"kd": 0.03}, epochs=3, devices=())
    folder = write_folder(tmp_path / "run", shape)
    plan = plan_of(shape).model_copy(update={"devices": (LOCAL,)})
    with folder.open(plan, "", PROVENANCE, data_digest="d" * 16):
        for number, cell in enumerate(plan.cells[:3]):
            found = measurement_of(cell, EXPORTS[0], LOCAL)
            folder.write_measurement(slower(found, 0.10 + 0.01 * number))
    noise = Analysis(load_results(folder.path)).noise
    assert noise["n"].tolist() == [3] and noise["spread"][0] == pytest.approx(0.2)
    write_report(folder.path)
    assert "Noise check: files that differ" in page(folder.path)


@pytest.mark.slow
def test_a_long_table_shows_its_first_rows_and_says_where_the_rest_is(tmp_path: Path) -> None:
    methods = {f"method{i:02d}": 0.001 * i for i in range(25)}
    shape = Shape(students=("a", "b"), gains=methods, seeds=2, epochs=2, devices=())
    path = write_folder(tmp_path / "run", shape).path
    write_report(path)
    assert f"First {ROWS_SHOWN} of 50 rows; all in tables/gains.csv." in page(path)
    assert "First 10 of 25 methods; all in tables/gains.csv." in page(path)
    assert len(pd.read_csv(path / "report" / "tables" / "gains.csv")) == 50


def test_settings_tell_two_methods_apart(tmp_path: Path) -> None:
    folder = ResultsFolder(tmp_path / "run")
    shape = Shape(students=("resnet8",), gains={"kd": 0.03}, epochs=3, devices=())
    plan = plan_of(shape)
    hot = [
        c.model_copy(update={"method": Item(name="kd", settings={"temperature": 8})})
        for c in plan.cells
        if c.method.name == "kd"
    ]
    plan = plan.model_copy(update={"cells": (*plan.cells, *hot)})
    with folder.open(plan, "", PROVENANCE):
        for cell in plan.cells:
            folder.write_result(result_of(folder, cell, shape))
    assert Analysis(load_results(folder.path)).methods == ["kd", "kd(temperature=8)"]


def test_a_report_of_no_results_folder_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(KtbenchError, match="no results folder"):
        write_report(tmp_path)


def test_a_few_bytes_of_weights_buy_no_place_on_the_front() -> None:
    """25,101 and 25,135 bytes are both shown as 25.1 kB: the better of the two is on the front."""
    from ktbench import stats
    from ktbench.report.sections.deployment import _as_shown

    sizes = _as_shown(pd.Series([25_101, 25_135, 62_500]))
    assert stats.pareto_front(sizes, [0.12, 0.81, 0.82]).tolist() == [False, True, True]
    assert _as_shown(pd.Series([0.0, 1.0, 0.0048349])).tolist() == pytest.approx(
        [0.0, 1.0, 0.00483]
    )
