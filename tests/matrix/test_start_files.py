"""Files of weights in a matrix: keys, students of their own file, and refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ktbench import catalogue, matrix
from ktbench.records import KtbenchError, Plan
from tests.support.running import SMALL, write_matrix

WIDTH = {"width": 0.25}
CODE = """
from torch import nn

def net(num_classes, in_channels):
    return nn.Sequential(
        nn.Conv2d(in_channels, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1),
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes),
    )
"""


def weights(folder: Path, file: str, network: str = "resnet8", seed: int = 1, **sizes: int) -> None:
    """Write a file of weights of a small network."""
    torch.manual_seed(seed)
    sizes = {"num_classes": 10, "in_channels": 1, **sizes}
    student = catalogue.build_student(network, WIDTH, base=".", **sizes)
    (folder / file).parent.mkdir(exist_ok=True)
    torch.save({"state_dict": student.state_dict()}, folder / file)


def planned(folder: Path, **changes: Any) -> Plan:
    return matrix.plan(matrix.load(write_matrix(folder / "m.yaml", **changes)))


def starts(plan: Plan) -> list[tuple[str, str, str]]:
    """Return student, method and origin of every cell."""
    return [
        (c.student.name, c.method.name, c.from_file.label if c.from_file else "fresh")
        for c in plan.cells
    ]


# ---------------------------------------------------------------- keys


@pytest.mark.slow
def test_a_key_holds_the_files_digest_and_not_its_path(tmp_path: Path) -> None:
    weights(tmp_path, "w.pt")
    weights(tmp_path, "there/w.pt")
    start = ["fresh", {"file": "w.pt"}]
    fresh, first = (c.key for c in planned(tmp_path, methods=[], start=start).cells)
    [alone] = planned(tmp_path, methods=[]).cells
    assert alone.key == fresh and '"from_file"' not in alone.canonical
    [moved] = planned(tmp_path, methods=[], start={"file": "there/w.pt"}).cells
    assert moved.key == first
    weights(tmp_path, "w.pt", seed=2)
    changed = [cell.key for cell in planned(tmp_path, methods=[], start=start).cells]
    assert changed[0] == fresh and changed[1] != first


@pytest.mark.slow
def test_a_file_may_lie_where_a_variable_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights(tmp_path, "there/w.pt")
    start = {"file": "${KTBENCH_TEST_WEIGHTS}/w.pt"}
    monkeypatch.delenv("KTBENCH_TEST_WEIGHTS", raising=False)
    with pytest.raises(KtbenchError, match="needs the environment variable KTBENCH_TEST_WEIGHTS"):
        planned(tmp_path, methods=[], start=start)
    monkeypatch.setenv("KTBENCH_TEST_WEIGHTS", str(tmp_path / "there"))
    [named] = planned(tmp_path, methods=[], start=start).cells
    [plain] = planned(tmp_path, methods=[], start={"file": "there/w.pt"}).cells
    assert named.key == plain.key and named.from_file is not None
    assert str(tmp_path) not in named.from_file.label


@pytest.mark.slow
def test_a_key_holds_how_the_parts_learn(tmp_path: Path) -> None:
    weights(tmp_path, "w.pt")
    settings: list[dict[str, Any]] = [
        {},
        {"freeze": "stem"},
        {"lr_scale": {"stem": 0.1}},
        {"lr_scale": {"stem": 0.2}},
        {"head": "new"},
        {"freeze": ["stage1", "stem"], "lr_scale": {"stage2": 0.5}},
    ]
    start = [{"file": "w.pt", **own} for own in settings]
    plan = planned(tmp_path, methods=[], start=start)
    assert len({cell.key for cell in plan.cells}) == len(settings)
    assert [start for *_, start in starts(plan)][-2:] == [
        "w.pt (head new)",
        "w.pt (freeze stage1, stem; stage2 x 0.5)",
    ]
    [other_order] = planned(
        tmp_path, methods=[], start={**start[-1], "freeze": ["stem", "stage1"]}
    ).cells
    assert other_order.key == plan.cells[-1].key


@pytest.mark.slow
def test_a_teachers_key_holds_the_file_that_its_training_begins_from(tmp_path: Path) -> None:
    weights(tmp_path, "w.pt", "resnet14")
    entry = {"name": "T", "student": {"resnet14": WIDTH}}
    plain = planned(tmp_path, teachers=[entry])
    started = planned(tmp_path, teachers=[{**entry, "start": {"file": "w.pt", "freeze": "stem"}}])
    assert started.teachers[0].cell.from_file is not None
    assert started.teachers[0].checkpoint is None
    keys = [{c.method.name: c.key for c in plan.cells} for plan in (plain, started)]
    assert keys[0]["none"] == keys[1]["none"] and keys[0]["kd"] != keys[1]["kd"]
    assert "resnet14(width=0.25) from w.pt (freeze stem): 92 of 92 tensors" in started.taken[0]


@pytest.mark.slow
def test_a_control_of_a_users_own_network_is_another_cell_when_its_code_changes(
    tmp_path: Path,
) -> None:
    text = {
        "teachers": [{"name": "T", "student": {"nets.py:net": {"stages": ["1", "3"]}}}],
        "students": [{"blockwise": {"of": "T", "start": "random"}}],
        "methods": [],
    }
    (tmp_path / "nets.py").write_text(CODE)
    [before] = planned(tmp_path, **text).cells
    (tmp_path / "nets.py").write_text(CODE.replace("ReLU", "GELU"))
    [after] = planned(tmp_path, **text).cells
    assert before.key != after.key


# ---------------------------------------------------------------- one student's file


@pytest.mark.slow
def test_each_student_has_its_own_file_through_include(tmp_path: Path) -> None:
    weights(tmp_path, "8.pt")
    weights(tmp_path, "14.pt", "resnet14")
    plan = planned(
        tmp_path,
        students=[{"resnet8": WIDTH}, {"resnet14": WIDTH}],
        include=[
            {"student": "resnet8*", "start": {"file": "8.pt"}},
            {"student": "resnet14*", "start": {"file": "14.pt", "freeze": "stem"}},
        ],
        exclude={"start": "fresh"},
    )
    assert starts(plan) == [
        ("resnet8", "none", "8.pt"),
        ("resnet8", "kd", "8.pt"),
        ("resnet14", "none", "14.pt (freeze stem)"),
        ("resnet14", "kd", "14.pt (freeze stem)"),
    ]


@pytest.mark.slow
def test_exclude_names_a_file_by_its_path(tmp_path: Path) -> None:
    weights(tmp_path, "w.pt")
    start = ["fresh", {"file": "w.pt"}, {"file": "w.pt", "head": "new"}]
    plan = planned(tmp_path, start=start, exclude={"start": "w.pt", "method": "kd"})
    assert [own for own in starts(plan) if own[1] == "kd"] == [("resnet8", "kd", "fresh")]
    assert len(plan.cells) == 4


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"start": {"file": "no.pt"}}, r"m.yaml:\d+: start.file: .*no.pt: no such file"),
        ({"start": {"file": "."}}, "start.file: .*is a directory"),
        ({"start": {"file": "w.pt", "freez": "stem"}}, "start.freez: unknown key: did you mean"),
        ({"start": {"file": "w.pt", "head": "old"}}, "start.head: must be new or keep"),
        ({"start": {"file": "w.pt", "lr_scale": {"stem": 0}}}, "must be above 0"),
        ({"start": [{"file": "w.pt"}] * 2}, r"start\[1\].*: w.pt is listed twice"),
        ({"include": {"start": "first.yaml"}}, "names what is not in the matrix's start"),
        ({"include": {"start": {"file": "no.pt"}}}, "include.start.file: .*no such file"),
        ({"exclude": {"start": "x.pt"}}, "'x.pt' matches nothing of this matrix"),
        (
            {"teachers": [{"student": "resnet8", "start": {"file": "w.pt"}, "checkpoint": "w.pt"}]},
            r"teachers\[0\].start: a checkpoint is not trained",
        ),
        ({"teachers": [{"student": "resnet8", "start": "w.pt"}]}, "start: must be a mapping"),
    ],
)
def test_a_file_that_cannot_be_meant_is_told_in_one_line(
    changes: dict[str, Any], words: str, tmp_path: Path
) -> None:
    weights(tmp_path, "w.pt")
    with pytest.raises(KtbenchError, match=words) as told:
        matrix.load(write_matrix(tmp_path / "m.yaml", **changes))
    assert len(str(told.value).splitlines()) == 1


@pytest.mark.slow
def test_a_file_that_does_not_suit_a_student_skips_its_cells_with_the_reason(
    tmp_path: Path,
) -> None:
    weights(tmp_path, "w.pt")
    plan = planned(
        tmp_path,
        students=[{"resnet8": WIDTH}, {"vgg_thin": WIDTH}],
        start={"file": "w.pt", "freeze": "stage3"},
        methods=["kd", {"attention": {"pairs": {"similarity": {"warmup_epochs": 1}}}}],
    )
    reasons = {(s.cell.student.name, s.cell.method.name): s.reason for s in plan.skips}
    assert reasons.keys() == {
        *(("vgg_thin", name) for name in ("none", "kd", "attention")),
        ("resnet8", "attention"),
    }
    assert "none of its weights fits" in reasons["vgg_thin", "kd"]
    assert "fresh weights, not from a file" in reasons["resnet8", "attention"]


@pytest.mark.slow
def test_a_part_that_a_network_lacks_skips_its_cells_and_those_of_its_students(
    tmp_path: Path,
) -> None:
    weights(tmp_path, "w.pt")
    entry = {"name": "T", "student": {"resnet8": WIDTH}, "start": {"file": "w.pt", "freeze": "x"}}
    plan = planned(tmp_path, teachers=[entry])
    [skip] = plan.skips
    assert skip.reason.startswith("teacher T: start: freeze: 'x' names nothing of this network")


@pytest.mark.slow
def test_the_schema_knows_files(tmp_path: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    check = jsonschema.Draft202012Validator(matrix.json_schema())
    entry = {"file": "w.pt", "freeze": "stem", "lr_scale": {"stage1": 0.1}, "head": "new"}
    text = SMALL | {
        "start": ["fresh", entry],
        "teachers": [{"student": "resnet8", "start": entry}],
        "include": [{"student": "resnet8", "start": entry}],
        "exclude": [{"start": "w.pt"}],
    }
    assert not list(check.iter_errors(text))
    assert list(check.iter_errors(text | {"start": {"file": "w.pt", "freez": "stem"}}))
