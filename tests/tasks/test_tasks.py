"""Every task of the catalogue keeps the contract."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from ktbench import catalogue, matrix
from ktbench.data import Dataset, Stream, describe
from ktbench.networks.outline import outline
from ktbench.records import DataSpec, Item, KtbenchError
from ktbench.students._contract import each, parts
from tests.support.elsewhere import bits, bits_elsewhere
from tests.support.running import SMALL
from tests.support.sounds import sound_data, write_sounds
from tests.support.texts import loaded, masked_data, text_data, write_documents, write_texts
from tests.support.training import DATA

STUDENTS = {
    "image_classification": "resnet8",
    "masked_language_model": "bert_tiny",
    "sound_classification": "tc_resnet8",
    "text_classification": "embedding_bag",
}
"""A student that suits the task."""
BESIDE = {"sound_classification": {"resnet8"}, "text_classification": {"bert_tiny"}}
"""Students of other tasks that suit it, too: a spectrum is a map of one channel."""


@pytest.fixture(scope="session", params=catalogue.tasks())
def spec(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> DataSpec:
    if request.param == "image_classification":
        return DATA
    if request.param == "sound_classification":
        return sound_data(write_sounds(tmp_path_factory.mktemp("sounds")), shift=0.05, noise=0.1)
    folder = tmp_path_factory.mktemp("texts")
    if request.param == "masked_language_model":
        return masked_data(write_documents(folder))
    return text_data(write_texts(folder))


@pytest.fixture
def data(spec: DataSpec) -> Dataset:
    return loaded(spec.model_dump_json())


def test_what_planning_says_of_a_data_set_is_what_is_loaded(spec: DataSpec, data: Dataset) -> None:
    info = describe(spec, Path())
    assert info.signature == data.signature
    sizes = [data.size(split) for split in ("train", "validation", "test")]
    assert [info.train_size, info.validation_size, info.test_size] == sizes


def test_inputs_have_the_form_that_the_signature_promises(data: Dataset) -> None:
    signature = data.signature
    for made in (data.some("test", slice(5)), signature.blank(5), signature.noise(5)):
        for part, told in zip(parts(made), signature.inputs, strict=True):
            assert part.shape == (5, *told.shape)
            assert part.dtype == (torch.float32 if told.below is None else torch.int64)
            assert told.below is None or 0 <= int(part.min()) <= int(part.max()) < told.below


def test_a_batch_is_a_function_of_seed_epoch_and_index(data: Dataset) -> None:
    indices = torch.tensor([7, 3, 11])
    one, two = (Stream(data, 5, 32).inputs(indices, 2) for _ in range(2))
    for_each = Stream(data, 5, 32)
    for place, index in enumerate(indices):
        alone = parts(for_each.inputs(index.view(1), 2))
        for a, b, c in zip(parts(one), parts(two), alone, strict=True):
            assert torch.equal(a, b) and torch.equal(a[place], c[0])


@pytest.mark.slow
def test_all_that_a_training_reads_has_the_same_bits_from_any_process_and_in_any_batch(
    spec: DataSpec, data: Dataset, tmp_path: Path
) -> None:
    """The library of word pieces alone numbers them by a hash table's order."""
    assert bits_elsewhere(spec, tmp_path) == [bits(data, [9])] * 2


def test_labels_are_one_per_prediction_and_a_function_of_seed_epoch_and_index(
    data: Dataset,
) -> None:
    indices, each_one = torch.tensor([7, 3, 11]), data.signature.predictions
    stream = Stream(data, 5, 32)
    labels = stream.labels(indices, 2)
    assert torch.equal(labels, Stream(data, 5, 32).labels(indices, 2))
    assert labels.shape == (3 * each_one,)
    alone = [stream.labels(index.view(1), 2) for index in indices]
    assert torch.equal(labels, torch.cat(alone))
    assert data.labels("test").shape == (data.size("test") * each_one,)
    assert torch.equal(
        data.labels("test", slice(2, 4)), data.labels("test")[2 * each_one :][: 2 * each_one]
    )


def test_without_augmentation_a_batch_holds_the_plain_samples(data: Dataset) -> None:
    stream, indices = Stream(data, 0, 32), torch.arange(4)
    if stream.augmentation:
        return
    for a, b in zip(
        parts(stream.inputs(indices, 0)), parts(data.some("train", slice(4))), strict=True
    ):
        assert torch.equal(a, b)


def test_equal_data_needs_no_conversion_between_two_trainings(data: Dataset) -> None:
    assert data.task.between(data.statistics, data.statistics) is None


def test_right_predictions_have_the_best_score(data: Dataset) -> None:
    labels = data.labels("test")
    outputs = torch.eye(data.signature.outputs)[labels] * 9
    worse = outputs.roll(1, 0)
    task = data.task
    scores = [task.score(task.predictions(side), labels) for side in (outputs, worse)]
    assert 1.0 == scores[0] > scores[1] >= 0.0
    assert float(task.loss(outputs, labels)) < float(task.loss(worse, labels))
    assert task.agreement(task.predictions(outputs), task.predictions(outputs)) == 1.0


def test_a_student_that_suits_the_task_is_outlined_and_another_says_why_not(
    data: Dataset,
) -> None:
    own = STUDENTS[data.spec.task.name]
    assert outline(Item(name=own), data.signature, ".").shapes.logits == data.signature.outputs
    for other in set(STUDENTS.values()) - {own} - BESIDE.get(data.spec.task.name, set()):
        with pytest.raises(KtbenchError, match=r"is for another task: it is built (from|without)"):
            outline(Item(name=other), data.signature, ".")


def test_a_write_into_one_training_s_inputs_reaches_no_other(data: Dataset) -> None:
    stream, indices = Stream(data, 0, 32), torch.arange(4)
    before = each(stream.inputs(indices, 0), torch.Tensor.clone)
    for part in parts(stream.inputs(indices, 0)):
        part.zero_()
    for a, b in zip(parts(before), parts(stream.inputs(indices, 0)), strict=True):
        assert torch.equal(a, b)


def test_an_unknown_task_and_an_unknown_setting_are_answered_with_the_nearest() -> None:
    for task, words in (
        (Item(name="text_clasification"), "did you mean text_classification"),
        (Item(name="text_classification", settings={"lenght": 4}), "did you mean length"),
        (Item(name="text_classification", settings={"length": 1}), "length must be 4 to 4096"),
        (
            Item(name="text_classification", settings={"lowercase": 3}),
            "lowercase cannot be 3, only true or false",
        ),
        (
            Item(name="text_classification", settings={"text_column": 5}),
            "text_column cannot be 5, only text or null",
        ),
    ):
        with pytest.raises(KtbenchError, match=words):
            catalogue.task(task)


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (
            {"text_classification": {}, "masked_language_model": {}},
            "task: give one as NAME or {NAME: settings}, not masked_language_model, text_cl",
        ),
        ({}, "task: give one as NAME or {NAME: settings}, not none"),
        ({"text_classification": {"tokenizer": 7}}, "tokenizer cannot be 7, only "),
    ],
)
def test_a_task_of_another_form_is_told_in_one_line(tmp_path: Path, task: Any, words: str) -> None:
    data = {"task": task, "source": "parquet", "path": "texts"}
    with pytest.raises(KtbenchError) as told:
        matrix.plan(matrix.loads(yaml.safe_dump(SMALL | {"data": data}), base=str(tmp_path)))
    assert words in str(told.value) and "\n" not in str(told.value)


def test_what_belongs_to_images_is_refused_for_texts(tmp_path: Path) -> None:
    data = text_data(write_texts(tmp_path / "texts")).model_dump(mode="json")
    text = yaml.safe_dump(
        SMALL | {"data": data | {"augment": {"flip": True}}, "students": ["embedding_bag"]}
    )
    with pytest.raises(KtbenchError, match=r"data.augment: is for images, and these are texts"):
        matrix.plan(matrix.loads(text, base=str(tmp_path)))


def test_the_task_of_images_is_unsaid_and_any_other_is_part_of_the_key() -> None:
    plain = DataSpec(source="digits")
    assert "task" not in plain.model_dump() and "task" not in plain.canonical
    said = DataSpec.model_validate({"source": "digits", "task": "image_classification"})
    assert said.canonical == plain.canonical and said == plain
    other = DataSpec.model_validate({"source": "parquet", "task": {"text_classification": {}}})
    assert '"task":{' in other.canonical
    assert DataSpec.model_validate_json(other.model_dump_json()) == other
