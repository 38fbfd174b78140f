"""Blockwise students in the report: each block, what was assembled, and what the finish gave."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from benchmarks._synthetic import PROVENANCE, Shape, plan_of, result_of
from ktbench.records import (
    Assembly,
    BlockResult,
    BlockSearch,
    BlockTrain,
    DeviceSpec,
    Failure,
    SoughtNetwork,
    Start,
    Try,
)
from ktbench.report import write_report
from ktbench.results import ResultsFolder
from tests.support.report_page import outline

SHAPE = Shape(
    students=("vgg_thin", "resnet8"), gains={"kd": 0.02}, seeds=2, exports=(), devices=(), epochs=4
)
NAMES = ("stages.0.0", "stages.1.0", "stages.2.0")


def block(number: int, seed: int) -> BlockResult:
    accuracy = 0.90 - 0.02 * number - 0.01 * seed
    return BlockResult(
        key=f"{seed:08x}{number:08x}",
        block=NAMES[number],
        replacement="separable",
        parameters_before=9000 * (number + 1),
        parameters=1500 * (number + 1),
        epochs=6,
        stopped="epochs",
        best_epoch=4,
        validation_accuracy=accuracy,
        loss=0.1 * (number + 1) ** 2,
        losses=(0.9, 0.4),
        tries=(Try(epoch=4, accuracy=accuracy, loss=0.1 * (number + 1) ** 2),),
        seconds=2.0,
        teacher_seconds=1.0 + number,
        shared_seconds=2.5,
        digest="0" * 16,
        path="blocks/a.pt",
    )


def assembly(student: str, seed: int, **changes: object) -> Assembly:
    made = Assembly(
        key=f"{student}-{seed}",
        student=student,
        seed=seed,
        blocks=tuple(block(number, seed) for number in range(3)),
        used=NAMES[:2],
        teacher_validation=0.91,
        teacher_test=0.90,
        validation=0.8,
        test=0.78,
        teacher_parameters=100_000,
        parameters=40_000,
        digest="1" * 16,
        path="blocks/assembled.pt",
        seconds=6.0,
        teacher_seconds=6.0,
        shared_seconds=7.5,
        workers=2,
        elapsed_seconds=4.0,
        joules=1234.0,
        joules_origin="estimated",
    )
    return made.model_copy(update=changes)


def write(place: Path, **changes: object) -> Path:
    """A finished synthetic folder in which one of two students was made from blocks."""
    plan, folder = plan_of(SHAPE), ResultsFolder(place)
    with folder.open(plan, "", PROVENANCE):
        for cell in plan.cells:
            result = result_of(folder, cell, SHAPE)
            if cell.student.name == "vgg_thin":
                start = assembly(cell.student.label, cell.seed, **changes)
                result = result.model_copy(update={"start": start})
            folder.write_result(result)
    write_report(place)
    return place


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("blocks") / "run")


def table(folder: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(folder / "report" / "tables" / f"{name}.csv")


@pytest.mark.slow
def test_each_block_stands_with_its_means_over_seeds_and_how_many_use_it(folder: Path) -> None:
    rows = table(folder, "blocks")
    assert rows["block"].tolist() == list(NAMES)
    assert rows["student"].unique().tolist() == ["vgg_thin"]
    assert rows["before"].tolist() == [9000, 18000, 27000]
    assert rows["lost"].tolist() == pytest.approx([0.015, 0.035, 0.055])
    assert rows["loss"].tolist() == pytest.approx([0.1, 0.4, 0.9])
    assert rows["used"].tolist() == [2, 2, 0]
    assert rows["n"].tolist() == [2, 2, 2]


@pytest.mark.slow
def test_a_student_is_followed_from_its_teacher_through_the_assembly_to_each_finish(
    folder: Path,
) -> None:
    """What the blocks took stands apart from the finish, the teacher's passes in both."""
    rows = table(folder, "assembled")
    assert rows["label"].tolist() == ["no transfer", "kd"]
    assert (rows["assembled"] == 0.78).all() and (rows["teacher_accuracy"] == 0.9).all()
    cells = table(folder, "cells").query("student == 'vgg_thin'")
    for label, method in (("no transfer", "none"), ("kd", "kd")):
        own, row = cells[cells["method"] == method], rows[rows["label"] == label].iloc[0]
        assert row["accuracy"] == pytest.approx(own["accuracy"].mean())
        assert row["finish_seconds"] == pytest.approx(
            (own["seconds"] + own["teacher_seconds"]).mean()
        )
    assert rows["share"].tolist() == pytest.approx([0.4, 0.4])
    assert (rows["blocks_seconds"] == 12.0).all() and (rows["blocks_really"] == 7.5).all()


@pytest.mark.slow
def test_schedule_feed_workers_and_energy_are_told_with_their_origin(folder: Path) -> None:
    words = " ".join(" ".join(outline(folder).words).split())
    assert "vgg_thin, seed 0: 2 workers, longest first; one pass of the teacher" in words
    assert "1.23 kJ estimated" in words and "idle share included" not in words


@pytest.mark.slow
def test_a_block_that_failed_and_one_that_was_found_again_are_told(tmp_path: Path) -> None:
    lost = Failure(stage="train", what="stages.2.0", reason="its worker was killed")
    place = write(
        tmp_path / "run",
        blocks=(block(0, 0), block(1, 0)),
        failures=(lost,),
        elapsed_seconds=None,
        joules=None,
        joules_origin=None,
    )
    words = " ".join(" ".join(outline(place).words).split())
    assert "stages.2.0 stayed the teacher's own: its worker was killed" in words
    assert "blocks of an earlier run were used again" in words
    assert table(place, "assembled")["blocks"].tolist() == [3, 3]


@pytest.mark.slow
def test_a_report_without_blockwise_students_has_no_such_section(tmp_path: Path) -> None:
    shape = replace(SHAPE, students=("resnet8",), seeds=1)
    plan, place = plan_of(shape), ResultsFolder(tmp_path / "run")
    with place.open(plan, "", PROVENANCE):
        for cell in plan.cells:
            place.write_result(result_of(place, cell, shape))
    write_report(place.path)
    assert "blocks" not in outline(place.path).anchors
    assert not (place.path / "report" / "tables" / "blocks.csv").exists()


# ---------------------------------------------------------------- a search


def network(kind: str, name: str, cost: float, accuracy: float, student: str) -> SoughtNetwork:
    return SoughtNetwork.model_validate(
        {
            "kind": kind,
            "name": name,
            "budget": None if kind == "uniform" else cost / 100,
            "choice": ("keep", "separable", "keep"),
            "student": {"name": student},
            "cost": cost,
            "parameters": int(1000 * cost),
            "validation": accuracy,
            "test": accuracy - 0.01,
        }
    )


@pytest.mark.slow
def test_a_search_is_told_with_the_finish_of_those_of_its_networks_that_were_run(
    tmp_path: Path,
) -> None:
    """`vgg_thin` stands for a searched network that the matrix finished."""
    place = tmp_path / "run"
    plan, folder = plan_of(SHAPE), ResultsFolder(place)
    taught = next(cell.teacher for cell in plan.cells if cell.teacher is not None)
    start = Start(teacher=taught, train=BlockTrain())
    cells = tuple(
        cell.model_copy(update={"start": start}) if cell.student.name == "vgg_thin" else cell
        for cell in plan.cells
    )
    with folder.open(plan.model_copy(update={"cells": cells}), "", PROVENANCE):
        for cell in cells:
            result = result_of(folder, cell, SHAPE)
            made = {"start": assembly(cell.student.label, cell.seed)} if cell.start else {}
            folder.write_result(result.model_copy(update=made))
    found = BlockSearch(
        key="0" * 16,
        teacher=taught.name,
        by="latency",
        device=DeviceSpec(profile="local", name="desk"),
        origin="measured",
        runtime="onnxruntime 1.0",
        seeds=(0, 1),
        blocks=(),
        shared=5.0,
        teacher_cost=100.0,
        teacher_parameters=100_000,
        teacher_validation=0.91,
        teacher_test=0.90,
        networks=(
            network("searched", "at most 40 %", 40.0, 0.7, "vgg_thin"),
            network("searched", "at most 80 %", 80.0, 0.88, "resnet14"),
            network("uniform", "separable", 45.0, 0.3, "resnet20"),
        ),
    )
    (place / "blocks" / "search-a.json").write_text(found.model_dump_json())
    (place / "blocks" / "search-b.json").write_text("{")  # damaged: left out
    write_report(place)
    rows = table(place, "search-latency-desk")
    assert rows["share"].tolist() == pytest.approx([0.4, 0.8, 0.45])
    assert rows["finished"].notna().tolist() == [True, False, False]
    own = table(place, "cells").query("student == 'vgg_thin'")
    best = own.groupby("method")[["validation", "accuracy"]].mean().sort_values("validation")
    assert rows["finished"].iloc[0] == pytest.approx(best["accuracy"].iloc[-1])
    words = " ".join(" ".join(outline(place).words).split())
    assert "separable everywhere" in words
    assert "Latencies measured on desk, onnxruntime 1.0" in words
    assert (place / "report" / "figures" / "search-latency-desk.png").exists()
