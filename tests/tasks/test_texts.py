"""Texts: word pieces, trainings, exported files, and what is refused."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from ktbench.data import describe, load
from ktbench.data.word_pieces import SPECIAL, WordPieces, learn, read_tokenizer, segments
from ktbench.export import LAYOUTS, export_student, raw_samples
from ktbench.matrix import loads, plan
from ktbench.measure import BoardAccuracy, evaluate, job_of
from ktbench.networks.weights import load_student
from ktbench.records import (
    Artifact,
    DataSpec,
    DeviceSpec,
    ExportSpec,
    KtbenchError,
    Teacher,
)
from tests.support.equal_bits import equal_bits_cached, trained, trained_teacher
from tests.support.running import ROOT
from tests.support.texts import loaded, sentences, text_cell, text_data, write_texts
from tests.support.training import HERE

TEXTS = "{task: {text_classification: {length: 12}}, source: parquet, path: texts}"


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> DataSpec:
    return text_data(write_texts(tmp_path_factory.mktemp("texts")))


# ---------------------------------------------------------------- word pieces


def test_texts_begin_and_end_are_padded_and_cut() -> None:
    pieces = WordPieces(learn(sentences(300)[0], 200, lowercase=True), 6)
    ids, mask = pieces.numbers(["The FILM", "the film is good and warm", ("film", "good")])
    pad, _, begin, end, _ = range(len(SPECIAL))
    assert ids.shape == mask.shape == (3, 6)
    assert (ids[:, 0] == begin).all() and ids[1, -1] == end
    assert ids[0].tolist() == [begin, ids[1, 1], ids[1, 2], end, pad, pad]
    assert mask[0].tolist() == [1, 1, 1, 1, 0, 0] and mask[1].all()
    assert ids[2].tolist() == [begin, ids[1, 2], end, ids[1, 4], end, pad]


def test_a_word_of_over_100_letters_or_with_a_new_letter_is_one_unknown_piece() -> None:
    pieces = WordPieces(learn(sentences(300)[0], 200, lowercase=True), 60)
    ids, mask = pieces.numbers(["film" * 25, "film" * 26, "filmЖ"])
    unknown = SPECIAL.index("[UNK]")
    assert (ids[0] == unknown).sum() == 0 and mask[0].sum() > 20
    for row in (1, 2):
        assert mask[row].sum() == 3 and ids[row][1] == unknown


def test_a_text_cannot_write_the_special_pieces() -> None:
    pieces = WordPieces(learn(sentences(300)[0], 200, lowercase=True), 12)
    ids, _ = pieces.numbers(["[SEP] [MASK]"])
    assert (ids[0] == 3).sum() == 1 and (ids[0] == 4).sum() == 0


def test_teacher_and_students_of_other_training_sizes_read_the_same_pieces(
    spec: DataSpec,
) -> None:
    few = load(spec.model_copy(update={"train_size": 60}), HERE)
    all_of_them = loaded(spec.model_dump_json())
    assert few.facts == all_of_them.facts and few.test_digest == all_of_them.test_digest
    assert few.task.between(few.statistics, all_of_them.statistics) is None
    other = load(spec.model_copy(update={"validation_size": 7}), HERE)
    with pytest.raises(KtbenchError, match="read other word pieces"):
        few.task.between(few.statistics, other.statistics)


# ---------------------------------------------------------------- training


@pytest.mark.slow
def test_a_text_cell_alone_in_a_cohort_cached_and_resumed_has_the_same_bits(
    spec: DataSpec, tmp_path: Path
) -> None:
    above = text_cell(spec, seed=9)
    live, made = trained_teacher(above, tmp_path / "teacher")
    assert made.accuracy.test_last > 0.8
    cells = [
        text_cell(spec, method, teacher=Teacher(name="t", cell=above))
        for method in ("kd", "rkd", "similarity")
    ]
    equal_bits_cached(cells, live, tmp_path)


# ---------------------------------------------------------------- exported files


@pytest.mark.slow
@pytest.mark.parametrize(
    ("format", "batch"),
    [("onnx", "1"), ("onnx", "dynamic"), ("tflite", "1"), ("tflite", "dynamic")],
)
def test_an_exported_file_takes_ids_and_mask_and_agrees_with_torch(
    spec: DataSpec, tmp_path: Path, format: Any, batch: Any
) -> None:
    data, cell = loaded(spec.model_dump_json()), text_cell(spec)
    [made] = trained([cell], tmp_path)
    student = load_student(cell, tmp_path / made.path, base=HERE, **data.dimensions)
    asked = ExportSpec(format=format, batch=batch)
    artifact = export_student(student, cell, asked, data, tmp_path / "artifacts", tmp_path)
    assert isinstance(artifact, Artifact), artifact
    assert artifact.agreement == 1.0 and artifact.max_difference < 1e-5
    assert artifact.test_accuracy == made.accuracy.test_last
    device = DeviceSpec(profile="local", name="here")
    samples, labels = raw_samples(LAYOUTS[format], data, "test"), data.labels("test").numpy()
    with torch.inference_mode():
        classes = data.task.predictions(student(data.some("test", slice(None)))).numpy()
    [answer] = evaluate(device, [job_of(artifact, tmp_path)], samples, labels, [classes])
    assert isinstance(answer, BoardAccuracy), answer
    assert (answer.accuracy, answer.agreement) == (artifact.test_accuracy, 1.0)


@pytest.mark.slow
def test_the_documented_program_classifies_as_torch_with_the_exported_files_alone(
    spec: DataSpec, tmp_path: Path
) -> None:
    data, cell = loaded(spec.model_dump_json()), text_cell(spec)
    [made] = trained([cell], tmp_path)
    student = load_student(cell, tmp_path / made.path, base=HERE, **data.dimensions)
    folder = tmp_path / "artifacts"
    artifact = export_student(student, cell, ExportSpec(format="onnx"), data, folder, tmp_path)
    assert isinstance(artifact, Artifact), artifact
    beside = tmp_path / Path(artifact.path).parent
    [program] = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "text.md").read_text(), re.S)
    (beside / "program.py").write_text(program)
    asked = sentences(12, seed=3)[0] + ["Ж", "the " * 40]
    answer = subprocess.run(
        [sys.executable, "program.py", Path(artifact.path).name, *asked],
        cwd=beside,
        check=True,
        capture_output=True,
        text=True,
    )
    pieces = WordPieces((beside / "tokenizer.json").read_text(), 12)
    with torch.inference_mode():
        inputs = tuple(torch.from_numpy(part).long() for part in pieces.numbers(asked))
        classes = student(inputs).argmax(1).tolist()
    expected = [
        f"{data.classes[number]} {text}" for number, text in zip(classes, asked, strict=True)
    ]
    assert answer.stdout.splitlines() == expected and len(set(classes)) == 2


# ---------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("columns", "settings", "words"),
    [
        ({}, {"text_column": "nothing"}, "has no column 'nothing'"),
        (
            {"id": list(range(400))},
            {"text_column": "text", "text_pair_column": "id"},
            "column 'id' holds no text",
        ),
    ],
)
def test_texts_that_cannot_be_read_are_told_in_one_line(
    tmp_path: Path, columns: Any, settings: Any, words: str
) -> None:
    spec = text_data(write_texts(tmp_path, **columns), **settings)
    with pytest.raises(KtbenchError, match=words) as told:
        load(spec, HERE)
    assert "\n" not in str(told.value)


def test_a_label_that_only_the_test_set_has_is_refused(tmp_path: Path) -> None:
    texts, labels = sentences(40)
    write_texts(tmp_path)
    table = pa.table({"text": texts, "label": np.array(labels) + 1})
    pq.write_table(table, tmp_path / "test.parquet")
    with pytest.raises(KtbenchError, match="classes without a training text"):
        describe(text_data(tmp_path), HERE)


def test_a_split_without_rows_is_refused(tmp_path: Path) -> None:
    write_texts(tmp_path)
    nothing = pa.table({"text": pa.array([], pa.string()), "label": pa.array([], pa.int64())})
    pq.write_table(nothing, tmp_path / "test.parquet")
    with pytest.raises(KtbenchError, match="data: the test split has no texts: give it some"):
        describe(text_data(tmp_path), HERE)


def test_a_column_of_texts_that_the_test_set_alone_has_is_said_to_be_unread(tmp_path: Path) -> None:
    texts, labels = sentences(40)
    write_texts(tmp_path)
    pq.write_table(
        pa.table({"text": texts, "text_pair": texts[::-1], "label": labels}),
        tmp_path / "test.parquet",
    )
    contents = describe(text_data(tmp_path), HERE).contents
    assert contents is not None
    assert "columns that are not read: text_pair" in contents.notes


def test_documents_of_a_vocabulary_are_named_as_such_where_they_cannot_be_read(
    tmp_path: Path,
) -> None:
    spec = text_data(write_texts(tmp_path), vocabulary_of=str(tmp_path / "none"))
    with pytest.raises(KtbenchError, match=r"data: vocabulary_of: no such file or folder .*none"):
        load(spec, HERE)


def test_a_folder_of_images_holds_no_texts(tmp_path: Path) -> None:
    spec = text_data(write_texts(tmp_path)).model_copy(update={"source": "folder"})
    with pytest.raises(KtbenchError, match="texts are in tables"):
        load(spec, HERE)


def test_padding_has_no_part_in_a_bag() -> None:
    from ktbench import catalogue

    torch.manual_seed(0)
    bag = catalogue.build_student("embedding_bag", {}, num_classes=3, vocabulary=50, length=8)
    ids, mask = torch.randint(1, 50, (2, 8)), torch.ones(2, 8, dtype=torch.int64)
    mask[:, 5:] = 0
    other = ids.clone()
    other[:, 5:] = 7
    assert torch.equal(bag((ids, mask)), bag((other, mask)))


# ---------------------------------------------------------------- tokenizers of one's own

KNOWN = {name: number for number, name in enumerate((*SPECIAL[1:], "film", SPECIAL[0]))}
"""A vocabulary whose padding is not 0."""


def _tokenizer(file: Path, model: Any) -> str:
    from tokenizers import Tokenizer, pre_tokenizers

    made = Tokenizer(model)
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.save(str(file))
    return str(file)


def _whole_words(unknown: str = "[UNK]", **more: int) -> Any:
    from tokenizers import models

    return models.WordLevel(vocab=KNOWN | more, unk_token=unknown)


def _without_special_pieces() -> Any:
    from tokenizers import models

    return models.BPE(vocab={"a": 0, "b": 1, "ab": 2}, merges=[("a", "b")])


@pytest.mark.parametrize(
    ("tokenizer", "words"),
    [
        (b'{"version": "1.0", "model": {', r"not a tokenizer \(EOF while parsing an object"),
        (b'{"a": 1}', "not a tokenizer"),
        (b"\xff\xfe\0", "not a tokenizer"),
        (_without_special_pieces, r"it has no piece \[PAD\]"),
        (lambda: _whole_words(unknown="[oops]"), r"not a tokenizer \(WordLevel error: Missing"),
        (lambda: _whole_words(story=2_000_000), "it numbers a piece 2,000,000: numbers below"),
    ],
)
def test_a_tokenizer_that_cannot_be_used_is_told_in_one_line(
    tmp_path: Path, tokenizer: Any, words: str
) -> None:
    file = tmp_path / "own.json"
    if isinstance(tokenizer, bytes):
        file.write_bytes(tokenizer)
    else:
        _tokenizer(file, tokenizer())
    with pytest.raises(KtbenchError, match=f"own.json: {words}") as told:
        read_tokenizer(file)
    assert "\n" not in str(told.value) and ".py" not in str(told.value)


def test_numbers_of_a_tokenizer_s_pieces_may_leave_gaps_and_its_padding_may_be_any(
    tmp_path: Path,
) -> None:
    file = _tokenizer(tmp_path / "own.json", _whole_words(story=900))
    task = {"text_classification": {"length": 12, "tokenizer": file}}
    folder = str(write_texts(tmp_path / "texts"))
    spec = DataSpec.model_validate({"task": task, "source": "parquet", "path": folder})
    data = load(spec, HERE)
    ids, mask = data.raw("train")
    assert data.signature.dimensions["vocabulary"] == 901 and int(ids.max()) == 900
    assert (ids[mask == 0] == KNOWN["[PAD]"]).all() and (mask == 0).any()
    told = data.task.sidecar(data.signature, data.statistics, data.facts)["ids"]
    assert told["meaning"] == "numbers of word pieces, padded with 5 or cut to the length"


# ---------------------------------------------------------------- planning


@pytest.mark.parametrize(
    ("data", "suits", "other", "asks"),
    [
        ("{source: digits}", "vgg8", "bert_tiny", "num_classes, vocabulary, length"),
        (TEXTS, "bert_tiny", "vgg8", "num_classes, in_channels"),
    ],
)
def test_a_network_of_another_task_is_skipped_with_a_reason(
    tmp_path: Path, data: str, suits: str, other: str, asks: str
) -> None:
    write_texts(tmp_path / "texts")
    text = f"data: {data}\nstudents: [{suits}, {other}]\nseeds: 1\ntrain: {{epochs: 1}}\n"
    made = plan(loads(text, base=str(tmp_path)))
    assert [cell.student.name for cell in made.cells] == [suits]
    [skip] = made.skips
    assert skip.cell.student.name == other
    assert f"student {other} is for another task: it is built from {asks}, and" in skip.reason


# ---------------------------------------------------------------- pairs


def test_the_pieces_of_a_second_text_are_its_segment() -> None:
    pieces = WordPieces(learn(sentences(300)[0], 200, lowercase=True), 9)
    ids, mask, *_ = pieces.numbers([("the film", "is good"), ("film", "good [SEP]")])
    kinds = segments(ids, mask, pieces.end)
    assert kinds[0].tolist() == [0, 0, 0, 0, 1, 1, 1, 0, 0]
    first_end = ids.tolist()[1].index(pieces.end)
    assert kinds[1].tolist() == [0] * (first_end + 1) + mask[1, first_end + 1 :].tolist()


def test_a_table_of_pairs_has_segments_and_one_of_texts_has_none(
    spec: DataSpec, tmp_path: Path
) -> None:
    single = loaded(spec.model_dump_json())
    table = write_texts(tmp_path / "pairs", text_pair=["a warm story"] * 400)
    paired = loaded(text_data(table, length=20).model_dump_json())
    assert [each.name for each in single.signature.inputs] == ["ids", "mask"]
    assert [each.name for each in paired.signature.inputs] == ["ids", "mask", "segments"]
    assert paired.raw("train")[2].any(1).all()
