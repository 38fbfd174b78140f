"""Blockwise students in a matrix, and a training that begins from weights that it is given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from ktbench import catalogue
from ktbench.export.exporter import Exporter
from ktbench.matrix import MatrixError, loads, plan
from ktbench.matrix.estimate import estimate
from ktbench.networks.weights import load_student
from ktbench.records import (
    Artifact,
    BlockTrain,
    Cell,
    Checkpoint,
    ExportSpec,
    Failure,
    Item,
    Plan,
    Start,
    Teacher,
)
from ktbench.students._blocks import Replacing
from ktbench.train import TrainingContext, train_cohort
from tests.support import training

MATRIX: dict[str, Any] = {
    "data": {"source": "digits", "train_size": 100},
    "teachers": [
        {"student": {"vgg8": {"width": 0.25}}, "name": "T"},
        {"student": "resnet8", "name": "R"},
    ],
    "students": [{"blockwise": {"of": "T"}}],
    "methods": ["none"],
    "seeds": 1,
    "train": {"epochs": 2},
}

NOT_R = {"teacher": "R"}


def planned(**changes: Any) -> Plan:
    return plan(loads(yaml.safe_dump(MATRIX | changes)))


def labels(found: Plan) -> list[str]:
    return [cell.student.label for cell in found.cells]


# ---------------------------------------------------------------- planning


def test_a_blockwise_student_has_its_teachers_network_and_begins_from_its_blocks() -> None:
    found = planned(blockwise={"epochs": 6, "feed": "prefix"})
    [cell] = found.cells
    assert cell.student.settings == {"of": "T", "network": {"vgg8": {"width": 0.25}}}
    assert cell.student.label == "blockwise(of=T)"
    assert cell.teacher is None and cell.start is not None
    assert cell.start.teacher.name == "T"
    assert cell.start.train == BlockTrain(epochs=6)
    assert [teacher.name for teacher in found.teachers] == ["T"]
    assert found.blockwise.feed == "prefix"
    assert Cell.model_validate_json(cell.model_dump_json()).key == cell.key


@pytest.mark.slow
def test_every_teacher_is_taken_where_none_is_named_and_lists_try_each() -> None:
    found = planned(
        students=[
            "blockwise",
            {"blockwise": {"of": ["R"], "replace": ["bottleneck", {"low_rank": {"rank": 0.5}}]}},
            {"blockwise": {"of": "T", "choice": ["keep", "keep", "keep", "keep", "separable"]}},
            {"blockwise": {"of": "T", "blocks": ["stages.1", "stages.2"]}},
        ],
        exclude={"student": "blockwise(*replace=bottle*"},
    )
    assert labels(found) == [
        "blockwise(of=T)",
        "blockwise(of=R)",
        "blockwise(of=R, replace=low_rank(rank=0.5))",
        'blockwise(choice=["keep","keep","keep","keep","separable"], of=T)',
        'blockwise(blocks=["stages.1","stages.2"], of=T)',
    ]
    networks = [cell.student.settings["network"] for cell in found.cells]
    assert networks[:2] == [{"vgg8": {"width": 0.25}}, "resnet8"]


@pytest.mark.slow
def test_what_weights_depend_on_is_in_the_key_and_where_blocks_are_trained_is_not() -> None:
    def keys(**section: Any) -> list[str]:
        return [cell.key for cell in planned(blockwise=section).cells]

    assert keys() == keys(feed="prefix", schedule="queue", watts=3)
    assert keys() != keys(epochs=7)


def test_cells_that_begin_from_their_seed_keep_the_keys_that_they_had() -> None:
    found = planned(students=["resnet8"], teachers=[], blockwise={"epochs": 3})
    assert [cell.key for cell in found.cells] == ["a672320673193118"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"students": [{"blockwise": {"of": "TT"}}]}, "no teacher is called 'TT': did you mean T"),
        ({"teachers": []}, "blockwise is made of a teacher's network: name one in teachers"),
        (
            {"students": [{"blockwise": {"of": "T", "network": "resnet20"}}]},
            r"teacher T is another network, vgg8\(width=0.25\): leave network out",
        ),
        ({"teachers": ["blockwise"]}, "made of a teacher itself, and cannot be one"),
        ({"students": [{"blockwise": {"choice": ["keep"]}}]}, "choice names 1 replacements for 5"),
        ({"students": [{"blockwise": {"replace": "seperable"}}]}, "did you mean separable"),
        ({"blockwise": {"epoch": 3}}, "blockwise.epoch: unknown key: did you mean epochs"),
        ({"blockwise": {"keep_within": 2}}, "must be at most 1, not 2"),
    ],
)
def test_a_mistake_is_told_where_it_stands(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(MatrixError, match=message):
        planned(**changes)


def test_a_network_that_is_the_teachers_own_may_be_written() -> None:
    written = {"of": "T", "network": {"vgg8": {"width": 0.25}}}
    assert planned(students=[{"blockwise": written}]).cells == planned().cells


@pytest.mark.slow
def test_the_estimate_counts_blocks_once_for_all_methods_that_finish_them() -> None:
    one, two = estimate(planned()), estimate(planned(methods=["none", "kd"], exclude=NOT_R))
    more = estimate(planned(blockwise={"epochs": 60}))
    assert one.block_seconds > 0
    assert "blocks" in one.text
    # An image costs a teacher's pass and a step of the student, in blocks as in distillation.
    thirty_epochs = more.flops - one.flops
    assert two.flops - one.flops == pytest.approx(thirty_epochs * 2 / 30)


# ---------------------------------------------------------------- the loop


def blockwise_cell(seed: int = 0, method: str = "none", **changes: Any) -> Cell:
    teacher = Teacher(name="t", cell=training.teacher_cell())
    settings: dict[str, Any] = {"of": "t", "network": "resnet8", "replace": "separable"}
    return training.cell(
        method,
        seed,
        student=Item(name="blockwise", settings=settings, implied=("network",)),
        start=Start(teacher=teacher, train=BlockTrain(epochs=1)),
        **changes,
    )


def first_weights(root: Path, cell: Cell, kept: int) -> Path:
    """Weights that keep the last `kept` blocks of those that could be replaced."""
    torch.manual_seed(100 + cell.seed)
    student = catalogue.build_student(
        cell.student.name, cell.student.settings, num_classes=10, in_channels=1
    )
    assert isinstance(student, Replacing)
    mask = student.chosen.clone()
    mask[mask.nonzero().flatten()[-kept:]] = 0
    student.suit({"chosen": mask})
    path = root / f"first-{cell.seed}-{kept}.pt"
    torch.save(student.state_dict(), path)
    return path


@pytest.mark.slow
def test_a_finish_is_bit_for_bit_the_same_alone_in_a_cohort_and_resumed(tmp_path: Path) -> None:
    plain, taught = blockwise_cell(), blockwise_cell(method="kd")
    path = first_weights(tmp_path, plain, 2)

    def finish(cells: list[Cell], folder: str, **options: Any) -> list[str]:
        (tmp_path / folder).mkdir(exist_ok=True)
        found = training.train(cells, tmp_path / folder, first_weights=lambda _: path, **options)
        assert all(isinstance(f, Checkpoint) for f in found), found
        return [f.digest for f in found if isinstance(f, Checkpoint)]

    together = finish([plain, taught], "cohort")
    assert finish([taught], "alone") == together[1:]
    assert len(set(together)) == 2

    def stop(progress: Any) -> None:
        if progress.done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finish([plain], "killed", checkpoint_seconds=0.0, report=stop)
    assert list((tmp_path / "killed").glob("*.work"))
    notes: list[str] = []
    assert finish([plain], "killed", note=notes.append) == together[:1]
    assert "went on after epoch" in notes[0]


@pytest.mark.slow
def test_a_finish_depends_on_the_weights_that_it_begins_from(tmp_path: Path) -> None:
    cell = blockwise_cell()
    digests = []
    for kept in (1, 2):
        path = first_weights(tmp_path, cell, kept)
        folder = tmp_path / str(kept)
        folder.mkdir()
        [found] = training.train([cell], folder, first_weights=lambda _, path=path: path)
        assert isinstance(found, Checkpoint)
        own = load_student(cell, folder / found.path, num_classes=10, in_channels=1, base=Path())
        first = torch.load(path, weights_only=True)
        assert isinstance(own, Replacing)
        assert torch.equal(own.chosen, first["chosen"])
        digests.append(found.digest)
    assert digests[0] != digests[1]


@pytest.mark.slow
def test_a_cell_whose_first_weights_are_not_there_fails_alone(tmp_path: Path) -> None:
    cells = [blockwise_cell(), training.cell("none")]
    failed, trained = training.train(cells, tmp_path)
    assert isinstance(failed, Failure) and "first weights" in failed.reason
    assert isinstance(trained, Checkpoint)


@pytest.mark.slow
def test_weights_of_another_network_are_refused_with_their_file(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pt")
    [failed] = train_cohort(
        [blockwise_cell()],
        TrainingContext(
            dataset=training.digits(),
            teacher=None,
            places=training.places_in(tmp_path),
            base=Path(),
            first_weights=lambda _: tmp_path / "other.pt",
        ),
    )
    assert isinstance(failed, Failure)
    assert "other.pt: not weights of this network" in failed.reason


# ---------------------------------------------------------------- the export


@pytest.mark.slow
def test_seeds_that_keep_other_blocks_share_no_graph_and_seeds_that_keep_the_same_do(
    tmp_path: Path,
) -> None:
    """The export checks that the file computes what the network does."""
    with Exporter(training.digits(), tmp_path / "artifacts", tmp_path) as exporter:
        graphs = []
        for seed, kept in ((0, 1), (1, 2), (2, 2)):
            cell = blockwise_cell(seed)
            path = first_weights(tmp_path, cell, kept)
            student = load_student(cell, path, num_classes=10, in_channels=1, base=Path())
            found = exporter.export(student, cell, ExportSpec(format="onnx"))
            assert isinstance(found, Artifact), found
            assert found.agreement == 1
            graphs.append(found.graph_key)
        assert len(exporter._templates) == 2
    assert graphs[0] != graphs[1] == graphs[2]


@pytest.mark.slow
def test_a_blockwise_student_is_written_for_tflite_too(tmp_path: Path) -> None:
    """Its mask of replaced blocks is of a type that the converter knows."""
    cell = blockwise_cell(0)
    path = first_weights(tmp_path, cell, 1)
    student = load_student(cell, path, num_classes=10, in_channels=1, base=Path())
    with Exporter(training.digits(), tmp_path / "artifacts", tmp_path) as exporter:
        found = exporter.export(student, cell, ExportSpec(format="tflite"))
    assert isinstance(found, Artifact), found
    assert found.agreement == 1
