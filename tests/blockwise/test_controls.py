"""Controls: the same network as a student of blocks, from random weights, for the same budget."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from ktbench import catalogue
from ktbench.matrix import MatrixError
from ktbench.networks.outline import FlopCounter, forward_flops, replaced_flops
from ktbench.records import Cell, Item, Plan
from ktbench.tasks.image_classification import image_signature
from tests.blockwise.test_matrix import planned
from tests.support import blockwise_runs as runs

STUDENTS = [{"blockwise": {"of": "T"}}, {"blockwise": {"of": "T", "start": "random"}}]
BLOCKS = {"epochs": 6, "batch_size": 64}
SHAPE = (1, 8, 8)


def by_name(plan: Plan) -> dict[tuple[str, str], Cell]:
    return {(cell.student.label, cell.method.label): cell for cell in plan.cells}


def controls(**blockwise: object) -> Plan:
    return planned(
        students=STUDENTS,
        methods=["none", "kd"],
        exclude={"teacher": "R"},
        blockwise=BLOCKS | blockwise,
    )


@pytest.mark.slow
def test_a_control_is_the_same_network_from_random_weights() -> None:
    cells = by_name(controls())
    student, control = cells["blockwise(of=T)", "kd"], cells["blockwise(of=T, start=random)", "kd"]
    assert student.start is not None and control.start is None
    assert control.teacher == student.teacher
    networks = [
        catalogue.build_student(
            cell.student.name, cell.student.settings, num_classes=10, in_channels=1
        )
        for cell in (student, control)
    ]
    shapes = [[(n, t.shape) for n, t in network.state_dict().items()] for network in networks]
    assert shapes[0] == shapes[1]


@pytest.mark.slow
def test_equal_in_images_it_is_trained_for_the_blocks_epochs_and_the_finishs() -> None:
    cells = by_name(controls(control="images"))
    # 100 images are 96 in batches of 32 or 64, and the finish has batches of 64, too.
    for method in ("none", "kd"):
        assert cells["blockwise(of=T)", method].train.epochs == 2
        assert cells["blockwise(of=T, start=random)", method].train.epochs == 2 + 6


@pytest.mark.slow
def test_equal_in_flops_it_pays_for_the_blocks_and_the_teachers_passes() -> None:
    """What one epoch of a control costs differs by method: kd runs the teacher as well."""
    cells = by_name(controls())
    student = cells["blockwise(of=T)", "none"].student
    teacher = forward_flops(
        Item(name="vgg8", settings={"width": 0.25}), image_signature(10, SHAPE), "."
    )
    own = forward_flops(student, image_signature(10, SHAPE), ".")
    blocks = 6 * (teacher + 3 * replaced_flops(student, image_signature(10, SHAPE), "."))
    for method, epoch in (("none", 3 * own), ("kd", 3 * own + teacher)):
        control = cells["blockwise(of=T, start=random)", method]
        assert control.train.epochs == 2 + math.ceil(blocks / epoch)
        spent, budget = control.train.epochs * epoch, 2 * epoch + blocks
        assert budget <= spent < budget + epoch
    none, kd = (cells["blockwise(of=T, start=random)", m].train.epochs for m in ("none", "kd"))
    assert none > kd > 2 + 6 / 2


@pytest.mark.slow
def test_epochs_that_an_include_gives_a_control_are_its_epochs() -> None:
    """So a matrix that names a planned cell with its training means that very cell."""
    changes = [{"student": "*start=random*", "train": {"epochs": 2, "lr": 0.1}}]
    plan = planned(students=STUDENTS, include=changes, blockwise=BLOCKS)
    control = by_name(plan)["blockwise(of=T, start=random)", "none"]
    assert (control.train.epochs, control.train.lr) == (2, 0.1)
    changes[0]["train"] = {"lr": 0.1}
    plan = planned(students=STUDENTS, include=changes, blockwise=BLOCKS)
    control = by_name(plan)["blockwise(of=T, start=random)", "none"]
    assert control.train.epochs > 8 and control.train.lr == 0.1


@pytest.mark.slow
def test_no_student_of_an_earlier_matrix_has_another_key_or_length() -> None:
    before = planned(blockwise=BLOCKS, students=STUDENTS[:1])
    cells = by_name(controls())
    [cell] = before.cells
    assert cells["blockwise(of=T)", "none"].key == cell.key
    assert "start" not in cell.student.settings


def test_a_control_begins_from_blocks_or_from_random_weights_and_nothing_else() -> None:
    with pytest.raises(MatrixError, match="start"):
        planned(students=[{"blockwise": {"of": "T", "start": "zeros"}}])


def test_the_gradient_of_a_depthwise_convolution_costs_two_forward_passes() -> None:
    for layer in (
        nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False),
        nn.Conv2d(16, 32, 3, stride=2, padding=1, groups=4),
        nn.ConvTranspose2d(16, 8, 3, stride=2, groups=4),
    ):
        inputs = torch.ones(2, 16, 8, 8, requires_grad=True)
        with FlopCounter() as forward:
            layer(inputs)
        with FlopCounter() as both:
            layer(inputs).sum().backward()
        assert both.get_total_flops() == 3 * forward.get_total_flops()


@pytest.mark.slow
def test_what_the_blocks_cost_is_recorded_with_one_pass_of_the_teacher(tmp_path: Path) -> None:
    runs.go(tmp_path / "run", runs.CELLS[:1])
    [result] = runs.results(tmp_path / "run")
    start, of = runs.start_of(result), runs.CELLS[0].student
    assert start.flops is not None and start.teacher_flops is not None
    teacher = forward_flops(runs.teacher().cell.student, image_signature(10, SHAPE), ".")
    epochs = [block.epochs for block in start.blocks]
    assert start.teacher_flops == max(epochs) * 96 * teacher
    if len(set(epochs)) == 1:
        replaced = replaced_flops(of, image_signature(10, SHAPE), ".")
        assert start.flops == pytest.approx(3 * 96 * epochs[0] * replaced)
