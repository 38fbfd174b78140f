"""Published accuracies stand beside measured ones where, and only where, they are of the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from benchmarks._synthetic import PROVENANCE, Shape, plan_of, result_of
from ktbench import catalogue
from ktbench.records import Cell, DataSpec, Item, Plan
from ktbench.report import write_report
from ktbench.report.sections.published import reference
from ktbench.results import ResultsFolder

SHAPE = Shape(
    students=("wrn_16_2", "resnet8"), gains={"kd": 0.02, "hint": 0.01, "fitnet": 0.01}, epochs=3
)
CIFAR = DataSpec(source="parquet", path="/data/CIFAR-100/train")


def write(place: Path, data: DataSpec = CIFAR, **teacher: Any) -> Path:
    """A finished folder of students of a wrn_40_2."""
    given = {"name": "wrn_40_2", "settings": {}} | teacher

    def moved(cell: Cell) -> Cell:
        cell = cell.model_copy(update={"data": data})
        if cell.teacher is None:
            return cell
        taught = cell.teacher.cell.model_copy(update={"data": data, "student": Item(**given)})
        return cell.model_copy(update={"teacher": cell.teacher.model_copy(update={"cell": taught})})

    plan: Plan = plan_of(SHAPE)
    plan = plan.model_copy(update={"cells": tuple(moved(cell) for cell in plan.cells)})
    folder = ResultsFolder(place)
    with folder.open(plan, "name: synthetic\n", PROVENANCE, data_digest="d" * 16):
        for cell in plan.cells:
            folder.write_result(result_of(folder, cell, SHAPE))
    return write_report(place).parent


@pytest.mark.slow
def test_a_published_pair_stands_beside_what_was_measured(tmp_path: Path) -> None:
    report = write(tmp_path / "run")
    rows = pd.read_csv(report / "tables" / "published.csv", keep_default_na=False)
    found = {row["label"]: row for row in rows.to_dict("records")}
    assert set(found) == {"no transfer", "kd", "hint"}, "of wrn_16_2; fitnet's phases are another"
    assert set(rows["student"]) == {"wrn_16_2"}, "nobody published wrn_40_2 and resnet8"
    assert found["kd"]["published"] == pytest.approx(0.7492)
    assert found["hint"]["published"] == pytest.approx(0.7358)
    assert found["no transfer"]["published"] == pytest.approx(0.7326)
    cells = pd.read_csv(report / "tables" / "cells.csv", keep_default_na=False)
    own = cells[(cells["student"] == "wrn_16_2") & (cells["method"] == "kd")]
    measured = own["accuracy"].astype(float).mean()
    assert found["kd"]["measured"] == pytest.approx(measured)
    page = (report / "report.md").read_text()
    assert "Published beside measured" in page
    assert "RepDistiller, last epoch" in page
    assert "3 epochs of all images, sgd" in page
    assert f"{100 * measured:.1f} %" in page


@pytest.mark.slow
@pytest.mark.parametrize(
    ("data", "teacher"),
    [
        (DataSpec(source="digits"), {}),
        (DataSpec(source="hub", path="uoft-cs/cifar10"), {}),
        (CIFAR, {"settings": {"width": 0.5}}),
        (CIFAR, {"name": "resnet14"}),
    ],
)
def test_other_data_or_networks_have_nothing_beside_them(
    data: DataSpec, teacher: dict[str, Any], tmp_path: Path
) -> None:
    report = write(tmp_path / "run", data, **teacher)
    table = report / "tables" / "published.csv"
    labels = set(pd.read_csv(table)["label"]) if table.exists() else set()
    alone = {"no transfer"} if data == CIFAR else set()
    assert labels == alone, "a student without a teacher may still be published"
    assert ("Published beside measured" in (report / "report.md").read_text()) == bool(alone)


def test_every_published_figure_names_networks_and_methods_of_the_catalogue() -> None:
    frame = reference()
    assert set(frame["method_name"]) <= set(catalogue.methods())
    assert set(frame["student_network"]) <= set(catalogue.students())
    assert set(frame["teacher_network"]) - {""} <= set(catalogue.students())
    keys = frame[["data", "teacher_network", "student_network", "method_name"]]
    assert not keys.duplicated().any()
    assert frame["published"].between(0.5, 0.85).all()
    pair = frame[frame["teacher_network"] == "wrn_40_2"]
    dkd = pair[(pair["method_name"] == "dkd") & (pair["student_network"] == "wrn_16_2")]
    assert dkd["published"].tolist() == [pytest.approx(0.7623)]
    assert dkd["settings"].tolist() == ["beta=6"]
