"""Blockwise students beside the teacher finished likewise and their controls, and their files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from pydantic import JsonValue

from benchmarks._synthetic import PROVENANCE, Shape, plan_of, result_of
from ktbench import stats
from ktbench.records import BlockTrain, Cell, Item, Result, Start
from ktbench.report import write_report
from ktbench.results import ResultsFolder
from tests.report.test_blocks import assembly
from tests.support.report_page import outline

SHAPE = Shape(students=("resnet8", "vgg_thin", "resnet14"), gains={"kd": 0.02})
ROLES = {"resnet8": "student", "vgg_thin": "teacher", "resnet14": "control"}
ACCURACY = {"student": 0.70, "teacher": 0.74, "control": 0.66}
INT8 = {"student": 1200, "teacher": 1000, "control": 900}
SPREAD = 0.003, -0.002, 0.0
"""By seed, the same for all."""


def settled(cell: Cell) -> Cell:
    """A cell as its role has it: of blocks, of the teacher's own blocks, or from random weights."""
    role = ROLES[cell.student.name]
    settings: dict[str, JsonValue] = {"of": "T", "network": "resnet8"}
    if role == "teacher":
        settings["choice"] = ["keep"] * 7
    if role == "control":
        settings["start"] = "random"
    item = Item(name="blockwise", settings=settings, implied=("network",))
    taught = next(c.teacher for c in plan_of(SHAPE).cells if c.teacher is not None)
    changes: dict[str, object] = {"student": item}
    if role == "control":
        changes["train"] = cell.train.model_copy(update={"epochs": 9})
    else:
        changes["start"] = Start(teacher=taught, train=BlockTrain(epochs=6))
    return cell.model_copy(update=changes)


def told(result: Result, role: str) -> Result:
    """A result with its role's accuracy, files and first weights."""
    seed = result.cell.seed
    assert result.checkpoint is not None
    accuracy = ACCURACY[role] + SPREAD[seed] + 0.01 * (result.cell.method.name == "kd")
    figures = {"test_last": accuracy, "test_best": accuracy}
    shown = result.checkpoint.accuracy.model_copy(update=figures)
    files = tuple(
        artifact.model_copy(
            update={"bytes": INT8[role] if artifact.export.precision == "int8" else 4000}
        )
        for artifact in result.artifacts
    )
    start = None
    if role != "control":
        kept = {"blocks": (), "used": (), "parameters": 100_000} if role == "teacher" else {}
        start = assembly(result.cell.student.label, seed, flops=3_000, teacher_flops=500, **kept)
    checkpoint = result.checkpoint.model_copy(update={"accuracy": shown})
    return result.model_copy(update={"checkpoint": checkpoint, "artifacts": files, "start": start})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("controls") / "run"
    before = plan_of(SHAPE)
    pairs = [(settled(cell), ROLES[cell.student.name]) for cell in before.cells]
    plan = before.model_copy(update={"cells": tuple(cell for cell, _ in pairs)})
    results, made = ResultsFolder(place), replace(SHAPE, students=("blockwise",))
    with results.open(plan, "", PROVENANCE):
        for cell, role in pairs:
            results.write_result(told(result_of(results, cell, made), role))
    write_report(place)
    return place


def table(folder: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(folder / "report" / "tables" / f"{name}.csv", keep_default_na=False)


@pytest.mark.slow
def test_a_finish_stands_beside_the_finished_teacher_and_each_control(folder: Path) -> None:
    rows = table(folder, "block-controls").query("label == 'kd'").set_index("against")
    assert rows.index[0] == "the teacher, finished likewise"
    expected = {
        "the teacher, finished likewise": -0.04,
        "the teacher, finished by no transfer": -0.03,
        "the same network from random weights: kd [epochs=9]": +0.04,
        "the same network from random weights: no transfer [epochs=9]": +0.05,
    }
    for against, difference in expected.items():
        assert rows.loc[against, "difference"] == pytest.approx(difference), against
    assert set(rows["n"]) == {SHAPE.seeds}


@pytest.mark.slow
def test_a_difference_has_the_paired_interval_of_its_seeds(folder: Path) -> None:
    rows = table(folder, "block-controls").query("label == 'kd'").set_index("against")
    row = rows.loc["the teacher before the finish"]
    values = [0.71 + SPREAD[seed] - 0.90 for seed in range(SHAPE.seeds)]
    wanted = stats.interval(values)
    shown = [float(row[name]) for name in ("difference", "low", "high")]
    assert shown == pytest.approx([wanted.mean, wanted.low, wanted.high])


@pytest.mark.slow
def test_both_measures_of_what_a_side_cost_are_shown(folder: Path) -> None:
    rows = table(folder, "block-controls").query("label == 'kd'").set_index("against")
    row = rows.loc["the same network from random weights: kd [epochs=9]"]
    cells = ResultsFolder(folder).results()
    cost = {
        (role, r.cell.method.name): r.checkpoint.cost.flops + r.checkpoint.cost.teacher_flops
        for r in cells
        for role in [("control" if r.start is None else "student" if r.start.used else "teacher")]
        if r.checkpoint is not None and r.cell.seed == 0
    }
    assert float(row["passes"]) == SHAPE.epochs + 6 and float(row["passes_other"]) == 9
    assert float(row["flops"]) == pytest.approx(cost["student", "kd"] + 3_500)
    assert float(row["flops_other"]) == pytest.approx(cost["control", "kd"])


@pytest.mark.slow
def test_an_int8_file_that_is_larger_than_its_teachers_is_told(folder: Path) -> None:
    rows = table(folder, "against-teacher").set_index(["student", "export"])
    int8 = [name for name in rows.index if name[1].endswith("int8")]
    assert int8
    for student, export in int8:
        ratio = 0.9 if "random" in student else 1.2
        assert float(rows.loc[(student, export), "size"]) == pytest.approx(ratio)
    words = " ".join(" ".join(outline(folder).words).split())
    assert "blockwise(of=T) as onnx-int8 does not improve on its teacher's file" in words
    assert "1.20 times its bytes" in words and "0.90 times its bytes" not in words
