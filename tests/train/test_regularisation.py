"""Blends, smoothed labels and averaged weights in whole trainings, and in the matrix."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from torch import nn

from ktbench import matrix
from ktbench.matrix import MatrixError
from ktbench.networks.weights import read_torch
from ktbench.records import Cell, Checkpoint, Failure, TrainSpec
from ktbench.train.weight_average import WeightAverage
from tests.support.running import SMALL
from tests.support.sounds import sound_data, write_sounds
from tests.support.training import TRAIN, cell, train

SETTINGS = {"mixup": 0.4, "cutmix": 1.0, "label_smoothing": 0.1, "ema": 0.9}


def _with(method: str = "none", **changes: Any) -> Cell:
    return cell(method, train=TRAIN.model_copy(update=changes))


def _made(of: Cell, root: Path, **options: Any) -> Checkpoint:
    [made] = train([of], root, **options)
    assert isinstance(made, Checkpoint), made
    return made


# ---------------------------------------------------------------- averaged weights


def test_an_average_is_the_papers_sum_over_all_steps() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    average = WeightAverage(network, 0.5)
    expected = {name: value.double() for name, value in network.state_dict().items()}
    for step in range(8):
        network(torch.randn(6, 3))
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(torch.randn_like(parameter))
        average.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        for name, value in network.state_dict().items():
            expected[name] = decay * expected[name] + (1 - decay) * value.double()
    own = {name: value.clone() for name, value in network.state_dict().items()}
    with average.shown():
        for name, value in network.state_dict().items():
            if value.is_floating_point():
                torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-6)
    for name, value in network.state_dict().items():
        assert torch.equal(value, own[name])
    assert int(network.state_dict()["1.num_batches_tracked"]) == 8


@pytest.mark.slow
def test_the_average_is_validated_and_kept_and_the_training_itself_is_the_same(
    tmp_path: Path,
) -> None:
    plain, averaged = (
        _made(_with(**changes), tmp_path / name)
        for name, changes in (("plain", {}), ("averaged", {"ema": 0.9}))
    )
    assert plain.digest != averaged.digest
    curves = [
        pq.read_table(tmp_path / name / made.curves).to_pydict()
        for name, made in (("plain", plain), ("averaged", averaged))
    ]
    assert curves[0]["loss_ce"] == curves[1]["loss_ce"]
    assert curves[0]["validation_accuracy"] != curves[1]["validation_accuracy"]
    assert averaged.accuracy.validation_last == curves[1]["validation_accuracy"][-1]
    # Decays below a tenth are reached at once: the average is then nearly the last weights.
    hardly = _made(_with(ema=1e-9), tmp_path / "hardly")
    ours, theirs = (
        read_torch(tmp_path / name / made.path)
        for name, made in (("plain", plain), ("hardly", hardly))
    )
    for name, value in ours.items():
        torch.testing.assert_close(theirs[name], value, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("keep", ["last", "best"])
def test_a_regularised_training_goes_on_to_the_same_weights(keep: str, tmp_path: Path) -> None:
    of = _with("kd", keep=keep, **SETTINGS)
    whole = _made(of, tmp_path / "whole")

    def interrupt(progress: object) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        train([of], tmp_path / "halted", report=interrupt, checkpoint_seconds=0.0)
    assert _made(of, tmp_path / "halted").digest == whole.digest


# ---------------------------------------------------------------- every method, every cohort


@pytest.mark.slow
def test_all_methods_learn_from_blended_images_alone_as_in_a_cohort(tmp_path: Path) -> None:
    methods = ("none", "kd", "dkd", "crd", "fitnet", "self_distillation")
    cells = [_with(method, **SETTINGS) for method in methods]
    together = train(cells, tmp_path / "together")
    assert not [made for made in together if isinstance(made, Failure)]
    alone = _made(cells[2], tmp_path / "alone")
    assert isinstance(together[2], Checkpoint) and together[2].digest == alone.digest


# ---------------------------------------------------------------- the matrix


def test_each_setting_is_part_of_the_key_and_unsaid_without() -> None:
    keys = {_with(**{name: value}).key for name, value in SETTINGS.items()}
    assert len(keys | {cell("none").key}) == 5
    for text in (TRAIN.canonical, TRAIN.model_dump_json()):
        assert not any(name in text for name in SETTINGS)
    again = TrainSpec.model_validate_json(_with(**SETTINGS).train.model_dump_json())
    assert again == _with(**SETTINGS).train


@pytest.mark.parametrize(
    ("data", "train_", "said"),
    [
        ({}, {"mixup": 0}, "train.mixup: must be at least 0.01"),
        ({}, {"label_smoothing": 1}, "train.label_smoothing: must be below 1"),
        ({}, {"ema": 1}, "train.ema: must be below 1"),
        ({"fit": "pad"}, {}, "data.fit: says how images come to image_size"),
        ({"augment": {"rand_augment": {"magnitude": 11}}}, {}, "must be at most 10"),
        ({"augment": {"erasing": {"scale": [0.5, 0.1]}}}, {}, "scale must have the smaller"),
        ({"augment": {"random_resized_crop": {"ratio": [1]}}}, {}, "ratio"),
        ({"augment": {"color_jitter": {}}}, {}, "colour_jitter"),
    ],
)
def test_settings_without_a_meaning_are_refused(
    data: dict[str, Any], train_: dict[str, Any], said: str
) -> None:
    values = SMALL | {"data": SMALL["data"] | data, "train": SMALL["train"] | train_}
    with pytest.raises(MatrixError) as caught:
        matrix.plan(matrix.loads(yaml.safe_dump(values)))
    assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.slow
def test_only_images_are_blended_and_every_kind_of_classes_is_smoothed(tmp_path: Path) -> None:
    write_sounds(tmp_path)
    spec = sound_data(tmp_path).model_dump(mode="json", exclude_defaults=True)
    task = {spec["task"]["name"]: spec["task"].get("settings", {})}
    values: dict[str, Any] = {
        "data": spec | {"task": task},
        "students": ["tc_resnet8"],
        "train": {"epochs": 1, "batch_size": 4, "label_smoothing": 0.1},
        "seeds": 1,
    }
    assert len(matrix.plan(matrix.loads(yaml.safe_dump(values))).cells) == 1
    values["train"] = values["train"] | {"mixup": 0.2}
    with pytest.raises(MatrixError, match=r"train.mixup: is for images, and these are sounds"):
        matrix.plan(matrix.loads(yaml.safe_dump(values)))
