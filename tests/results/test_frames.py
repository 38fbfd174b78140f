"""`load_results`: tidy frames of the lock's matrix, every cell accounted for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import ktbench
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
from ktbench.records import Cell, DeviceSpec, Failure, KtbenchError, Plan, TrainSpec, Validity
from ktbench.results import ResultsFolder
from ktbench.results.lock import Lock, LockFile
from ktbench.results.storage import sealed

GAINS = {"kd": 0.03, "fitnet": -0.02}
SMALL = Shape(students=("resnet8", "vgg_thin"), gains=GAINS, seeds=2, epochs=4)


def failing(cell: Cell) -> Failure | None:
    if cell.method.name == "kd" and cell.student.name == "resnet8" and cell.seed == 1:
        return Failure(stage="train", reason="became nan", step=3)
    return None


def troubled(path: Path) -> ktbench.results.Results:
    shape = Shape(
        students=SMALL.students,
        gains=GAINS,
        seeds=2,
        epochs=4,
        failed=failing,
        skipped=lambda c: "too few stages" if c.method.name == "fitnet" and c.seed == 0 else None,
        missing=lambda c: c.method.name == "none" and c.seed == 1,
    )
    return ktbench.load_results(write_folder(path, shape).path)


def test_every_cell_of_the_matrix_is_one_row_whatever_became_of_it(tmp_path: Path) -> None:
    cells = troubled(tmp_path / "run").cells
    assert len(cells) == len(plan_of(SMALL).cells) == cells["key"].nunique()
    counts = cells["status"].value_counts().to_dict()
    assert counts == {"done": 7, "pending": 2, "skipped": 2, "failed": 1}
    assert set(cells.loc[cells["status"] == "skipped", "reason"]) == {"too few stages"}
    assert set(cells.loc[cells["status"] == "failed", "reason"]) == {"became nan"}
    assert cells.loc[cells["status"] == "done", "accuracy"].notna().all()
    assert cells.loc[cells["status"] != "done", "accuracy"].isna().all()


def test_accuracy_is_that_of_the_weights_that_are_exported(tmp_path: Path) -> None:
    folder = ResultsFolder(tmp_path / "run")
    plan = plan_of(SMALL)
    best = TrainSpec(epochs=4, keep="best")
    cells = (plan.cells[0], plan.cells[0].model_copy(update={"train": best}))
    with folder.open(plan.model_copy(update={"cells": cells}), "", PROVENANCE):
        for cell in cells:
            folder.write_result(result_of(folder, cell, SMALL))
    frame = ktbench.load_results(folder.path).cells
    assert frame["accuracy"].tolist() == [frame["test_last"][0], frame["test_best"][1]]
    assert frame["validation"][1] == frame["validation_best"][1]


def test_what_a_cell_trains_differently_is_named(tmp_path: Path) -> None:
    plan = plan_of(SMALL)
    longer = plan.cells[-1].model_copy(update={"train": TrainSpec(epochs=9, lr=0.1)})
    folder = ResultsFolder(tmp_path / "run")
    with folder.open(plan.model_copy(update={"cells": (*plan.cells, longer)}), "", PROVENANCE):
        pass
    cells = ktbench.load_results(folder.path).cells
    assert cells["budget"].tolist() == [""] * len(plan.cells) + ["epochs=9, lr=0.1"]


def test_a_curve_has_one_row_per_epoch_and_null_where_a_term_is_absent(tmp_path: Path) -> None:
    results = ktbench.load_results(write_folder(tmp_path / "run", SMALL).path)
    curves = results.curves
    cells = results.cells.set_index("key")
    assert len(curves) == 4 * len(cells)
    assert curves["epoch"].tolist() == [1, 2, 3, 4] * len(cells)
    method = curves["key"].astype(object).map(cells["method"])
    assert (curves["loss_kd"].notna() == (method == "kd")).all()
    last = curves.groupby("key", observed=True)["validation_accuracy"].last()
    assert np.array_equal(last[cells.index].to_numpy(), cells["validation_last"].to_numpy())


def test_a_missing_or_damaged_curve_costs_its_own_cell_and_is_named(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "run", SMALL)
    keys = [cell.key for cell in plan_of(SMALL).cells]
    damaged, missing = (folder.curves(key) for key in keys[:2])
    damaged.write_bytes(damaged.read_bytes()[:100])
    missing.unlink()
    results = ktbench.load_results(folder.path)
    assert set(results.curves["key"]) == set(keys[2:])
    assert [(p.key, p.path) for p in results.problems] == [
        (key, f"cells/{key}.curves.parquet") for key in keys[:2]
    ]
    assert results.cells["accuracy"].notna().all()


def test_latency_of_a_graph_is_shared_and_accuracy_is_the_cells_own(tmp_path: Path) -> None:
    results = ktbench.load_results(write_folder(tmp_path / "run", SMALL).path)
    deployed = results.deployed
    assert len(results.measurements) == 2 * len(EXPORTS)
    assert len(deployed) == len(results.cells) * len(EXPORTS)
    by_graph = deployed.groupby("graph_key")
    assert (by_graph["p50_ms"].nunique() == 1).all()
    assert (by_graph["artifact_accuracy"].nunique() == 6).all()


def test_a_cells_own_measurement_goes_before_another_of_its_graph(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "run", SMALL)
    plan = plan_of(SMALL)
    other = next(c for c in plan.cells if c.student.name == "resnet8" and c.method.name == "kd")
    own = measurement_of(other, EXPORTS[0], LOCAL)
    own = slower(own, 7.0).model_copy(update={"started": "2026-01-03T00:00:00+00:00"})
    with folder.open(plan, "", PROVENANCE, data_digest="d" * 16):
        folder.write_measurement(own)
    deployed = ktbench.load_results(folder.path).deployed
    chosen = deployed[(deployed["p50_ms"] == 7.0)]
    assert chosen["key"].tolist() == [other.key] and chosen["own"].all()


def test_an_invalid_measurement_does_not_stand_for_a_graph_with_a_valid_one(tmp_path: Path) -> None:
    shape = Shape(students=("resnet8",), gains={"kd": 0.03}, seeds=2, epochs=2, devices=())
    folder = write_folder(tmp_path / "run", shape)
    plan = plan_of(shape).model_copy(update={"devices": (LOCAL,)})
    first, second, third = plan.cells[:3]
    with folder.open(plan, "", PROVENANCE, data_digest="d" * 16):
        bad = Validity(reasons=("throttled",))
        folder.write_measurement(measurement_of(first, EXPORTS[0], LOCAL, validity=bad))
        folder.write_measurement(measurement_of(second, EXPORTS[0], LOCAL))
    deployed = ktbench.load_results(folder.path).deployed.set_index("key")
    assert deployed["valid"][third.key] and deployed["valid"][second.key]
    assert not deployed["valid"][first.key]


def test_measurements_that_cannot_be_compared_keep_rows_of_their_own(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "run", SMALL)
    cell = plan_of(SMALL).cells[0]
    slow = measurement_of(cell, EXPORTS[0], LOCAL)
    slow = slow.model_copy(
        update={
            "state_before": {"governor": "powersave"},
            "samples": "measurements/x.samples.parquet",
        }
    )
    with folder.open(plan_of(SMALL), "", PROVENANCE, data_digest="d" * 16):
        folder.write_measurement(slow)
    deployed = ktbench.load_results(folder.path).deployed
    rows = deployed[(deployed["key"] == cell.key) & (deployed["export"] == EXPORTS[0].label)]
    assert len(rows) == 2 and rows["comparability"].nunique() == 2


@pytest.mark.parametrize(
    "change",
    [
        {"device": LOCAL.model_copy(update={"name": "other"})},
        {"origin": "emulated"},
        {"board": "another board"},
        {"runtime": "other"},
        {"runtime_version": "0.0.1"},
        {"provider": "OtherProvider"},
        {"threads": 7},
        {"batch": "dynamic"},
        {"state_before": {"governor": "powersave"}},
        {"state_before": {"power_mode": "15W"}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_measurements_made_otherwise_cannot_be_compared(change: dict[str, Any]) -> None:
    found = measurement_of(plan_of(SMALL).cells[0], EXPORTS[0], LOCAL)
    assert found.model_copy(update=change).comparability != found.comparability
    assert found.model_copy(update={"p50_ms": found.p90_ms}).comparability == found.comparability


def test_what_the_matrix_no_longer_has_is_left_out_but_kept(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "run", SMALL)
    plan = plan_of(SMALL)
    fewer = plan.model_copy(
        update={
            "cells": plan.cells[:3],
            "exports": EXPORTS[:1],
            "devices": (DeviceSpec(profile="local", name="another"),),
        }
    )
    with folder.open(fewer, "", PROVENANCE, data_digest="d" * 16):
        pass
    results = ktbench.load_results(folder.path)
    assert len(results.cells) == 3 and set(results.artifacts["export"]) == {EXPORTS[0].label}
    assert results.measurements.empty and results.deployed.empty
    with folder.open(plan, "", PROVENANCE, data_digest="d" * 16):
        pass
    assert (ktbench.load_results(folder.path).cells["status"] == "done").all()


def test_teachers_are_rows_with_their_own_cost(tmp_path: Path) -> None:
    shape = Shape(students=("resnet8",), gains={"kd": 0.03}, teachers=("big", "small"), seeds=1)
    teachers = ktbench.load_results(write_folder(tmp_path / "run", shape).path).teachers
    assert teachers["name"].tolist() == ["big", "small"]
    assert teachers["seconds"].tolist() == [12.0, 12.0]


def test_frames_of_an_empty_folder_have_their_columns(tmp_path: Path) -> None:
    shape = Shape(students=("resnet8",), gains={"kd": 0.03}, seeds=1, missing=lambda c: True)
    results = ktbench.load_results(write_folder(tmp_path / "run", shape).path)
    for frame in (results.curves, results.artifacts, results.measurements, results.deployed):
        assert isinstance(frame, pd.DataFrame) and frame.empty and len(frame.columns) > 5
    assert (results.cells["status"] == "pending").all()
    assert results.teachers["accuracy"].isna().all()


def test_a_lock_file_gives_back_the_same_plan(tmp_path: Path) -> None:
    shape = Shape(
        teachers=("big", "small"),
        skipped=lambda c: "no" if c.method.name == "kd" and c.seed == 1 else None,
    )
    lock = Lock(plan=plan_of(shape), provenance=PROVENANCE, data_digest="d")
    text = LockFile.of(lock).model_dump_json()
    assert LockFile.model_validate_json(text).lock() == lock
    assert len(text) < len(lock.model_dump_json()) / 4


def test_a_lock_that_names_a_part_it_does_not_have_is_damaged(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "run", SMALL)
    file = LockFile.of(folder.lock())
    cut = file.plan.parts.model_copy(update={"student": {}})
    plan: object = file.plan.model_copy(update={"parts": cut})
    folder.lock_file.write_text(sealed(file.model_copy(update={"plan": plan})))
    with pytest.raises(KtbenchError, match="is damaged"):
        folder.lock()


def test_a_folder_without_a_lock_is_no_results_folder(tmp_path: Path) -> None:
    with pytest.raises(KtbenchError, match=r"no lock\.json"):
        ktbench.load_results(tmp_path)


def test_a_plan_alone_is_enough_to_open(tmp_path: Path) -> None:
    empty = Plan(name="empty", base="/", cells=())
    with ResultsFolder(tmp_path / "run").open(empty, "", PROVENANCE):
        pass
    assert ktbench.load_results(tmp_path / "run").cells.empty
