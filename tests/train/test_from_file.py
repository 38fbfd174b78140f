"""Trainings that begin from a user's file of weights: frozen parts, rates of parts, equal bits."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ktbench import catalogue
from ktbench.networks.weights import read_torch
from ktbench.records import Cell, Checkpoint, Failure, TrainSpec, WeightsFile
from ktbench.system.files import digest_of_file
from ktbench.train import Progress, TrainingContext
from ktbench.train.learning_rate import learning_rate
from tests.support.training import TRAIN, cell, digits, places_in, train

STEPS = 3


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file of the weights of a deeper network with another head."""
    torch.manual_seed(7)
    deep = catalogue.build_student(
        "resnet14", {"width": 0.5}, num_classes=4, in_channels=1, base="."
    )
    for module in deep.modules():  # statistics that a training would move
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()  # type: ignore[union-attr]
    torch.save({"model": deep.state_dict()}, tmp_path / "w.pt")
    return tmp_path / "w.pt"


def given(file: Path, **settings: Any) -> WeightsFile:
    return WeightsFile(file=str(file), digest=digest_of_file(file)[1], **settings)


def begun(file: Path, method: str = "none", settings: dict[str, Any] | None = None) -> Cell:
    return cell(method, from_file=given(file, **(settings or {})))


def weights(made: Checkpoint | Failure, root: Path) -> dict[str, Tensor]:
    assert isinstance(made, Checkpoint), made
    state: dict[str, Tensor] = read_torch(root / made.path)
    return state


@pytest.mark.slow
@pytest.mark.parametrize("method", ["none", "fitnet", "intermediate_last_per_layer"])
def test_what_is_frozen_keeps_its_bits_statistics_included_and_the_rest_learns(
    file: Path, tmp_path: Path, method: str
) -> None:
    frozen = {"freeze": ("stage1", "stem")}
    [made] = train([begun(file, method, frozen)], tmp_path)
    after, before = weights(made, tmp_path), read_torch(file)["model"]
    still = [name for name in after if name.startswith(("stem.", "stages.0."))]
    assert any(name.endswith("running_mean") for name in still)
    for name, value in after.items():
        same = name in before and value.shape == before[name].shape
        moved = not same or not torch.equal(value, before[name])
        assert moved == (name not in still), name
    assert isinstance(made, Checkpoint) and made.begun is not None
    assert made.begun.new == ("head.weight", "head.bias")


@pytest.mark.slow
def test_a_frozen_part_costs_no_backward_pass(file: Path, tmp_path: Path) -> None:
    whole, part = train(
        [begun(file), begun(file, settings={"freeze": ("stem", "stage1", "stage2")})], tmp_path
    )
    assert isinstance(whole, Checkpoint) and isinstance(part, Checkpoint)
    assert part.cost.flops < 0.75 * whole.cost.flops


@pytest.mark.slow
def test_factors_of_the_rate_are_those_of_sgd_written_by_hand(file: Path, tmp_path: Path) -> None:
    spec = TrainSpec(epochs=1, batch_size=32, lr=0.05, momentum=0.9, weight_decay=5e-4)
    factors = {"stem": 0.1, "stage2": 0.5, "head.bias": 2.0}
    trained = cell("none", from_file=given(file, lr_scale=factors), train=spec)
    [made] = train([trained], tmp_path)
    after = weights(made, tmp_path)
    by_hand = _by_hand(trained, spec, tmp_path)
    assert after.keys() == by_hand.keys()
    for name, value in by_hand.items():
        torch.testing.assert_close(after[name], value, rtol=1e-5, atol=1e-6, msg=name)
    plain = cell("none", from_file=given(file), train=spec)
    [other] = train([plain], tmp_path)
    assert not torch.allclose(weights(other, tmp_path)["stem.0.weight"], after["stem.0.weight"])


def _by_hand(of: Cell, spec: TrainSpec, root: Path) -> dict[str, Tensor]:
    """Train the same batches with SGD's formulas: v = m v + g + w d, w = w - (rate x factor) v."""
    from ktbench.data import Stream
    from ktbench.train.device_placement import make_batch, make_probe
    from ktbench.train.start import TraineeBuilder

    data = digits(of.data.model_dump_json())
    stream = Stream(data, of.seed, spec.batch_size, spec.views)
    context = TrainingContext(dataset=data, teacher=None, places=places_in(root), base=Path())
    device = torch.device("cpu")
    student = TraineeBuilder(context, make_probe(stream, device)).build(of).student
    velocity = {name: torch.zeros_like(p) for name, p in student.named_parameters()}
    assert stream.steps_per_epoch == STEPS
    for number, indices in enumerate(stream.order(0)):
        batch = make_batch(stream, indices, epoch=0, step=number, steps=STEPS, device=device)
        student.zero_grad()
        batch.supervised(student.train()(batch.inputs)).backward()
        rate = learning_rate(spec, epoch=0, progress=batch.progress)
        with torch.no_grad():
            for name, p in student.named_parameters():
                assert p.grad is not None
                velocity[name] = spec.momentum * velocity[name] + p.grad + spec.weight_decay * p
                p -= rate * _factor(name) * velocity[name]
    return student.state_dict()


def _factor(name: str) -> float:
    begins = {"stem.": 0.1, "stages.1.": 0.5, "head.bias": 2.0}
    return next((factor for begin, factor in begins.items() if name.startswith(begin)), 1.0)


@pytest.mark.slow
@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
def test_a_cell_from_a_file_has_the_same_bits_alone_in_a_cohort_and_resumed(
    file: Path, tmp_path: Path, optimiser: str
) -> None:
    settings = {"freeze": ("stem",), "lr_scale": {"stage1": 0.1, "head": 3.0}}
    spec = TRAIN.model_copy(update={"optimiser": optimiser, "lr": 0.01})
    cells = [
        cell("kd", from_file=given(file, **settings), train=spec),
        cell("kd", from_file=given(file), train=spec),
        cell("kd", train=spec),
    ]
    together = [one.digest for one in train(cells, tmp_path / "a") if isinstance(one, Checkpoint)]
    alone = [train([each], tmp_path / f"{n}")[0] for n, each in enumerate(cells)]
    assert together == [one.digest for one in alone if isinstance(one, Checkpoint)]
    assert len(set(together)) == 3

    def kill(progress: Progress) -> None:
        if progress.done == 2:
            raise InterruptedError

    places = tmp_path / "killed"
    with pytest.raises(InterruptedError):
        train(cells[:1], places, checkpoint_seconds=0.0, report=kill)
    notes: list[str] = []
    [resumed] = train(cells[:1], places, note=notes.append)
    assert isinstance(resumed, Checkpoint) and resumed.digest == together[0]
    assert any("went on after epoch 1" in note for note in notes), notes


@pytest.mark.slow
def test_a_file_that_is_gone_or_another_fails_its_cell_alone(file: Path, tmp_path: Path) -> None:
    gone, changed = tmp_path / "gone.pt", tmp_path / "changed.pt"
    for copy in (gone, changed):
        shutil.copy(file, copy)
    cells = [begun(gone), begun(changed), begun(file)]
    gone.unlink()
    torch.save(read_torch(file), changed, _use_new_zipfile_serialization=False)
    # Equal files have one key, and the cohort's cells are told apart by their places alone.
    lost, other, whole = (train([each], tmp_path / f"{n}")[0] for n, each in enumerate(cells))
    assert isinstance(lost, Failure) and "no such checkpoint" in lost.reason
    assert isinstance(other, Failure) and "has changed since the matrix was planned" in other.reason
    assert isinstance(whole, Checkpoint)
