"""Cells that begin from another training's weights."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from ktbench import matrix
from ktbench.networks.weights import begin_from, read_torch
from ktbench.records import KtbenchError, Plan, Result, Teacher
from ktbench.report.efficiency.frames import trainings
from ktbench.results import load_results
from tests.support.running import SMALL, Commands, digests, results, write_matrix
from tests.support.training import DATA, cell, train

STUDENT = {"resnet8": {"width": 0.25}}
FINE: dict[str, Any] = {
    "name": "fine",
    "data": {**SMALL["data"], "train_size": 40, "split_seed": 1},
    "teachers": [],
    "methods": [],
    "start": ["fresh", "first.yaml"],
    "train": {"epochs": 1, "batch_size": 20, "lr": 0.01},
}


def write_both(folder: Path, first: dict[str, Any] | None = None, **changes: Any) -> Path:
    """Write a matrix of pretrainings, and one whose cells begin from them; return the latter."""
    write_matrix(folder / "first.yaml", name="first", **(first or {}))
    return write_matrix(folder / "fine.yaml", **(FINE | changes))


def planned(path: Path) -> Plan:
    return matrix.plan(matrix.load(path))


def by_start(folder: Path) -> dict[str, Result]:
    """Return results by the name of what their cells begin from."""
    made = results(folder).values()
    return {r.cell.pretrained.name if r.cell.pretrained else "fresh": r for r in made}


# ---------------------------------------------------------------- the plan


@pytest.mark.slow
def test_every_cell_of_the_other_matrix_with_the_same_student_and_seed_is_one_start(
    tmp_path: Path,
) -> None:
    first = {
        "seeds": 2,
        "budget": [1, 2],
        "distill": {"end": [0.5, 1]},
        "students": [STUDENT, "vgg_thin"],
    }
    plan = planned(write_both(tmp_path, first, seeds=2))
    names = [cell.pretrained.name if cell.pretrained else "fresh" for cell in plan.cells]
    once = [
        *("fresh", "none, 1 epoch", "none, 2 epochs", "kd, 0-0.5, 1 epoch", "kd, 1 epoch"),
        *("kd, 0-0.5, 2 epochs", "kd, 2 epochs"),
    ]
    assert sorted(names) == sorted(2 * once)
    for each in plan.cells:
        if each.pretrained is not None:
            assert each.pretrained.cell.seed == each.seed
            assert each.pretrained.cell.student == each.student
    other = planned(tmp_path / "first.yaml")
    assert {p.cell.key for p in plan.pretrainings} == {
        c.key for c in other.cells if c.student.name == "resnet8"
    }
    assert [teacher.name for teacher in plan.teachers] == ["T"]


@pytest.mark.slow
def test_a_key_holds_what_the_cell_begins_from_and_is_as_before_without(tmp_path: Path) -> None:
    plan = planned(write_both(tmp_path))
    fresh, *begun = plan.cells
    assert '"pretrained"' not in fresh.canonical and fresh.pretrained is None
    assert all(
        c.pretrained is not None and c.pretrained.cell.canonical in c.canonical for c in begun
    )
    shutil.rmtree(tmp_path)
    slower = {"train": {**SMALL["train"], "lr": 0.04}}
    again = planned(write_both(tmp_path, slower))
    assert again.cells[0].key == fresh.key
    assert not {c.key for c in again.cells[1:]} & {c.key for c in begun}


@pytest.mark.parametrize(
    ("start", "words"),
    [
        ("nothing.yaml", "start: .*nothing.yaml.* no such file|No such file"),
        ("fine.yaml", "fine.yaml starts from itself"),
        (["fresh", "fresh"], r"start\[1\]: fresh is listed twice"),
        (["first.yaml", "first.yaml"], r"start\[1\]: first.yaml is listed twice"),
        ("sub/first.yaml", "must lie in this file's folder"),
        ("wide.yaml", r"wide.yaml trains no resnet8\(width=0.25\)"),
        ("seeds.yaml", r"seeds.yaml trains no resnet8\(width=0.25\) with seed 0"),
        ("broken.yaml", "broken.yaml.*train: is missing|broken.yaml"),
        ({"file": 3}, "start.file: must be text"),
    ],
)
def test_a_start_that_is_none_is_told_in_one_line(tmp_path: Path, start: Any, words: str) -> None:
    write_matrix(tmp_path / "wide.yaml", name="wide", students=["resnet8"])
    write_matrix(tmp_path / "seeds.yaml", name="seeds", seeds=[5])
    write_matrix(tmp_path / "sub/first.yaml", name="first")
    (tmp_path / "broken.yaml").write_text("data: {source: digits}\n")
    path = write_both(tmp_path, start=start)
    with pytest.raises(KtbenchError, match=words) as told:
        planned(path)
    assert len(str(told.value).splitlines()) == 1


@pytest.mark.slow
def test_pairs_by_similarity_and_other_networks_are_skipped_with_the_reason(tmp_path: Path) -> None:
    pairs = {"pairs": {"similarity": {"warmup_epochs": 1}}}
    teachers = SMALL["teachers"]
    path = write_both(
        tmp_path, methods=[{"attention": pairs}], teachers=teachers, start="first.yaml"
    )
    plan = planned(path)
    reasons = {skip.reason for skip in plan.skips}
    assert len(reasons) == 1
    assert "begins from fresh weights, not from another training" in reasons.pop()


# ---------------------------------------------------------------- weights


@pytest.mark.slow
def test_all_that_fits_is_taken_but_the_head(tmp_path: Path) -> None:
    before = cell("none")
    [made] = train([before], tmp_path / "before")
    weights = tmp_path / "before" / made.path  # type: ignore[union-attr]
    given = read_torch(weights)
    from ktbench import catalogue

    student = catalogue.build_student(
        "resnet8", {"width": 0.5}, num_classes=10, in_channels=1, base="."
    )
    fresh = {name: value.clone() for name, value in student.state_dict().items()}
    begun = begin_from(student, weights)
    assert begun.new == ("head.weight", "head.bias") and begun.taken == len(fresh) - 2
    for name, value in student.state_dict().items():
        assert torch.equal(value, fresh[name] if name in begun.new else given[name])
    other = catalogue.build_student("vit_tiny", {}, num_classes=10, in_channels=1, base=".")
    with pytest.raises(KtbenchError, match="none of its weights fits"):
        begin_from(other, weights)


def test_a_users_own_network_keeps_its_last_linear_layer_new(tmp_path: Path) -> None:
    from torch import nn

    from ktbench.students._own import wrap

    def net(num_classes: int, in_channels: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, num_classes))

    first, second = (wrap(net, num_classes=10, in_channels=1) for _ in range(2))
    torch.save(first.state_dict(), tmp_path / "w.pt")
    begun = begin_from(second, tmp_path / "w.pt")
    assert begun.new == ("network.3.weight", "network.3.bias") and begun.taken == 2


def test_a_cell_whose_start_is_not_there_fails_and_says_so(tmp_path: Path) -> None:
    begun = cell("none", pretrained=Teacher(name="before", cell=cell("none", data=DATA)))
    [made] = train([begun], tmp_path)
    assert "the weights that it begins from are not there" in made.reason  # type: ignore[union-attr]


@pytest.mark.slow
def test_a_cell_that_begins_from_weights_has_the_same_bits_alone_in_a_cohort_and_resumed(
    tmp_path: Path,
) -> None:
    before = cell("none", data=DATA.model_copy(update={"train_size": 200}))
    [first] = train([before], tmp_path / "before")
    weights = tmp_path / "before" / first.path  # type: ignore[union-attr]
    cells = [cell("none", pretrained=Teacher(name="before", cell=before)), cell("none")]
    options: dict[str, Any] = {"first_weights": lambda of: weights if of.pretrained else None}
    together = train(cells, tmp_path / "together", **options)
    alone = [train([each], tmp_path / f"{n}", **options)[0] for n, each in enumerate(cells)]
    kept = [one.digest for one in together]  # type: ignore[union-attr]
    assert kept == [one.digest for one in alone] and kept[0] != kept[1]  # type: ignore[union-attr]


# ---------------------------------------------------------------- runs


@pytest.mark.slow
def test_a_run_trains_what_its_cells_begin_from_and_says_what_it_cost(
    ktbench: Commands, tmp_path: Path
) -> None:
    path = write_both(tmp_path)
    shown = ktbench("plan", path)
    assert "start:    none, 2 epochs; kd, 2 epochs" in shown.out
    assert "new: head.weight, head.bias" in shown.out
    assert ktbench("run", path).code == 0
    folder = Path("results/fine")
    made = by_start(folder)
    assert made.keys() == {"fresh", "none, 2 epochs", "kd, 2 epochs"}
    assert ktbench("run", tmp_path / "first.yaml").code == 0
    own = {
        k.split(" / ")[1].partition(" ")[0]: v for k, v in digests(Path("results/first")).items()
    }
    for name, result in made.items():
        assert result.checkpoint is not None
        if name == "fresh":
            assert result.pretrained is None and result.checkpoint.begun is None
            continue
        assert result.pretrained is not None and result.checkpoint.begun is not None
        assert result.pretrained.checkpoint.digest == own[name.partition(",")[0]]
        assert result.checkpoint.begun.new == ("head.weight", "head.bias")
        assert len(result.pretrained.taught_by) == name.startswith("kd")
    assert len({r.checkpoint.digest for r in made.values() if r.checkpoint}) == 3
    frame = trainings(load_results(folder)).set_index("key")
    for name, result in made.items():
        row, kept = frame.loc[result.cell.key], result.checkpoint
        assert kept is not None
        before = result.pretrained.checkpoint.cost if result.pretrained else None
        extra = before.flops + before.teacher_flops if before else 0
        assert row["flops"] == kept.cost.flops + kept.cost.teacher_flops + extra
        assert (row["method"], row["epochs"]) == (
            ("kd" if "kd" in name else "none"),
            2 if before else 1,
        )
        assert row["rest"] == ("" if before else "start=fresh")


@pytest.mark.slow
def test_a_finished_run_is_resumed_and_lost_first_weights_are_restored(
    ktbench: Commands, tmp_path: Path
) -> None:
    path = write_both(tmp_path, start="first.yaml")
    assert ktbench("run", path).code == 0
    folder = Path("results/fine")
    before = digests(folder)
    result = by_start(folder)["none, 2 epochs"]
    assert result.pretrained is not None and ktbench("verify", folder).code == 0
    weights = folder / result.pretrained.checkpoint.path
    content = weights.read_bytes()
    weights.unlink()
    assert ktbench("verify", folder).code == 1
    (folder / "cells" / f"{by_start(folder)['kd, 2 epochs'].cell.key}.json").unlink()
    assert ktbench("run", path).code == 0
    assert weights.read_bytes() == content and digests(folder) == before
    assert ktbench("verify", folder).code == 0


@pytest.mark.slow
def test_what_the_other_matrix_has_trained_is_not_trained_again(
    ktbench: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_both(tmp_path, start="first.yaml")
    assert ktbench("run", tmp_path / "first.yaml").code == 0
    monkeypatch.setenv("KTBENCH_CACHE", str(tmp_path / "other"))
    assert ktbench("run", path).code == 0
    records = list((tmp_path / "other/teachers").glob("*/checkpoint.json"))
    names = [p for p in records if '"epochs": 2' in p.read_text()]
    assert len(names) == 1  # the teacher T alone
    firsts = set(digests(Path("results/first")).values())
    begun = [result.pretrained for result in results(Path("results/fine")).values()]
    assert {pretrained.checkpoint.digest for pretrained in begun if pretrained} == firsts


@pytest.mark.slow
def test_a_start_that_fails_fails_its_own_cells_with_the_reason(
    ktbench: Commands, tmp_path: Path
) -> None:
    first = {"train": {**SMALL["train"], "lr": 1e30}, "teachers": [], "methods": []}
    path = write_both(tmp_path, first)
    answer = ktbench("run", path)
    assert answer.code == 1
    made = by_start(Path("results/fine"))
    assert made["fresh"].status == "done"
    failed = made["none, 2 epochs"]
    assert failed.status == "failed" and failed.checkpoint is None
    assert failed.failures[0].what == "none, 2 epochs"
    assert "became nan" in failed.failures[0].reason
