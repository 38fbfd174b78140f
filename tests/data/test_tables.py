"""Tables: columns are chosen only without doubt, labels are distinct values, files name splits."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ktbench.data import Dataset, describe, load
from ktbench.records import DataSpec, KtbenchError

HERE = Path()
COUNT = 20
TWO = [row % 2 for row in range(COUNT)]
WORDS = ["no", "yes"]


def _png(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (8, 8), shade).save(buffer, "PNG")
    return buffer.getvalue()


IMAGES = [_png(row) for row in range(COUNT)]
"""The shade of a picture is its row, so that its label is known: shade % 2."""


def _write(file: Path, columns: dict[str, Any], features: dict[str, Any] | None = None) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(columns)
    if features:
        info = {"info": {"features": features}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(info)})
    pq.write_table(table, file)


def _spec(folder: Path, **keys: Any) -> DataSpec:
    return DataSpec(source="parquet", path=str(folder), **keys)


def _right(data: Dataset) -> bool:
    """Whether every picture has the label of its row."""
    return bool((data.raw("train").amax((1, 2, 3)) % 2 == data.labels("train")).all())


def _refused(folder: Path, **keys: Any) -> str:
    with pytest.raises(KtbenchError) as caught:
        describe(_spec(folder, **keys), HERE)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "columns",
    [
        {"image_id": range(100, 120), "image": IMAGES, "category": TWO},
        {"image_id": range(100, 120), "image": IMAGES, "breed": TWO},
        {"mask": [_png(255)] * COUNT, "image": IMAGES, "label": TWO},
        {"Image": IMAGES, "width": [8] * COUNT, "Label": TWO},
        {"image": IMAGES, "label": TWO, "class_name": ["a", "b"] * 10},
        {"image": IMAGES, "digit": TWO},
    ],
)
def test_columns_without_doubt_are_chosen(tmp_path: Path, columns: dict[str, Any]) -> None:
    _write(tmp_path / "train.parquet", {k: list(v) for k, v in columns.items()})
    data = load(_spec(tmp_path), HERE)
    assert data.classes == ("0", "1") and _right(data)


@pytest.mark.parametrize(
    ("columns", "reason", "key"),
    [
        ({"left": IMAGES, "right": IMAGES, "label": TWO}, "left, right", "image_column"),
        ({"image": IMAGES, "colour": TWO, "shape": TWO[::-1]}, "colour, shape", "label_column"),
        (
            {"image": IMAGES, "label": TWO, "class": [0, 0, 1, 1] * 5},
            "label, class",
            "label_column",
        ),
        ({"image": IMAGES, "width": TWO, "height": TWO}, "width, height", "label_column"),
        ({"image": IMAGES, "label": range(COUNT)}, "20 different labels", "label_column"),
    ],
)
def test_columns_in_doubt_are_asked_for(
    tmp_path: Path, columns: dict[str, Any], reason: str, key: str
) -> None:
    _write(tmp_path / "train.parquet", {k: list(v) for k, v in columns.items()})
    told = _refused(tmp_path)
    assert reason in told and f"data.{key}" in told


def test_a_column_that_is_named_is_taken(tmp_path: Path) -> None:
    columns = {"left": [_png(255)] * COUNT, "right": IMAGES, "colour": TWO, "shape": [0] * COUNT}
    _write(tmp_path / "train.parquet", columns)
    assert _right(load(_spec(tmp_path, image_column="right", label_column="colour"), HERE))
    assert "no column 'lable'" in _refused(tmp_path, label_column="lable")


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        ([1 + label for label in TWO], ("1", "2")),
        ([10**10 + label for label in TWO], ("10000000000", "10000000001")),
        ([2 * label - 1 for label in TWO], ("-1", "1")),
        ([float(label) for label in TWO], ("0", "1")),
        ([bool(label) for label in TWO], ("False", "True")),
        ([WORDS[label] for label in TWO], ("no", "yes")),
        ([[1 - label, label] for label in TWO], ("0", "1")),
        ([[label] for label in TWO], ("0", "1")),
        (pa.array(WORDS * 10).dictionary_encode(), ("no", "yes")),
        (
            pa.array([2**64 - 2 + label for label in TWO], pa.uint64()),
            (f"{2**64 - 2}", f"{2**64 - 1}"),
        ),
    ],
)
def test_classes_are_the_distinct_labels_whatever_they_are(
    tmp_path: Path, labels: Any, classes: tuple[str, ...]
) -> None:
    _write(tmp_path / "train.parquet", {"image": IMAGES, "label": labels})
    data = load(_spec(tmp_path), HERE)
    assert data.classes == classes and _right(data)


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        ([None, *TWO[1:]], "1 of 20 rows of train have no label"),
        ([float("nan"), *map(float, TWO[1:])], "have no label"),
        (["", *["a", "b"] * 9, "a"], "have no label"),
        ([label + 0.5 for label in TWO], "0.5 is no whole number"),
        ([[1, label] for label in TWO], "row 1 is not one class"),
        ([[1] * (1 + label) for label in TWO], "lists of 1, 2 members"),
        ([{"a": label} for label in TWO], "no label column"),
        ([1] * COUNT, "one class only"),
    ],
)
def test_values_that_are_no_labels_are_refused(tmp_path: Path, labels: Any, reason: str) -> None:
    _write(tmp_path / "train.parquet", {"image": IMAGES, "label": labels})
    assert reason in _refused(tmp_path)


@pytest.mark.parametrize(
    ("test", "reason"),
    [
        ({"image": IMAGES}, "the test split has no column 'label'"),
        ({"picture": IMAGES, "label": TWO}, "the test split has no column 'image'"),
        ({"image": IMAGES, "label": ["a", "b"] * 10}, "text in test and numbers in train"),
        ({"image": TWO, "label": TWO}, "holds no images"),
        ({"image": IMAGES, "label": [3] * COUNT}, "without a training image (3)"),
    ],
)
def test_a_split_that_does_not_fit_the_training_split_is_refused(
    tmp_path: Path, test: dict[str, Any], reason: str
) -> None:
    _write(tmp_path / "train.parquet", {"image": IMAGES, "label": TWO})
    _write(tmp_path / "test.parquet", test)
    assert reason in _refused(tmp_path)


@pytest.mark.parametrize("labels", [[-1] * COUNT, pa.nulls(COUNT, pa.int64()), pa.nulls(COUNT)])
def test_a_test_split_without_labels_is_left_out_and_told(tmp_path: Path, labels: Any) -> None:
    features = {"label": {"_type": "ClassLabel", "names": WORDS}}
    _write(tmp_path / "train.parquet", {"image": IMAGES, "label": TWO}, features)
    _write(tmp_path / "test.parquet", {"image": IMAGES, "label": labels}, features)
    info = describe(_spec(tmp_path), HERE)
    assert info.contents is not None
    assert "the test split is not read" in info.contents.notes[0]
    assert (info.train_size, info.test_size, info.contents.classes) == (14, 4, ("no", "yes"))


def test_labels_beyond_their_names_are_refused(tmp_path: Path) -> None:
    features = {"label": {"_type": "ClassLabel", "names": WORDS}}
    _write(tmp_path / "train.parquet", {"image": IMAGES, "label": [5 * n for n in TWO]}, features)
    assert "the labels 5 have none" in _refused(tmp_path)


@pytest.mark.parametrize(
    ("files", "sizes"),
    [
        (("Train.parquet", "Test.parquet"), (18, 2, 20)),
        (("training.parquet", "testing.parquet"), (18, 2, 20)),
        (("train/0.parquet", "val/0.parquet"), (16, 20, 4)),
        (("data/train-0-of-2.parquet", "data/train-1-of-2.parquet"), (29, 3, 8)),
        (("mnist_train.parquet", "mnist_test.parquet"), (18, 2, 20)),
        (("0.parquet", "1.parquet"), (29, 3, 8)),
        (("latest.parquet",), (14, 2, 4)),
    ],
)
def test_files_name_their_split_as_folders_do(
    tmp_path: Path, files: tuple[str, ...], sizes: tuple[int, int, int]
) -> None:
    for file in files:
        _write(tmp_path / file, {"image": IMAGES, "label": TWO})
    info = describe(_spec(tmp_path), HERE)
    assert (info.train_size, info.validation_size, info.test_size) == sizes


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        (("a/train.parquet", "b/train.parquet"), "several folders (a, b)"),
        (("train.parquet", "training.parquet"), "several tables for the train split"),
        (("test.parquet",), "has no train*.parquet, only test.parquet"),
    ],
)
def test_files_that_could_be_several_tables_are_refused(
    tmp_path: Path, files: tuple[str, ...], reason: str
) -> None:
    for file in files:
        _write(tmp_path / file, {"image": IMAGES, "label": TWO})
    assert reason in _refused(tmp_path)


def test_a_part_that_is_not_like_the_others_is_named(tmp_path: Path) -> None:
    _write(tmp_path / "train-0.parquet", {"image": IMAGES, "label": TWO})
    other = tmp_path / "train-1.parquet"
    _write(other, {"image": IMAGES, "target": TWO})
    assert "train-1.parquet has no column 'label'" in _refused(tmp_path)
    _write(other, {"img": IMAGES, "label": TWO})
    assert "train-1.parquet has no column 'image'" in _refused(tmp_path)
    _write(other, {"image": IMAGES, "label": ["a", "b"] * 10})
    assert "not of one type" in _refused(tmp_path)
    other.write_bytes(b"PAR1 torn")
    assert "cannot read" in _refused(tmp_path) and "train-1.parquet" in _refused(tmp_path)


def test_a_csv_file_names_its_pictures(tmp_path: Path) -> None:
    for row, data in enumerate(IMAGES):
        (tmp_path / f"{row}.png").write_bytes(data)
    lines = [f"{row}.png,{WORDS[row % 2]}" for row in range(COUNT)]
    (tmp_path / "train.csv").write_text("\n".join(["file,label", *lines]))
    data = load(_spec(tmp_path), HERE)
    assert data.classes == ("no", "yes") and _right(data)
    (tmp_path / "3.png").unlink()
    with pytest.raises(KtbenchError, match=r"row 3: cannot read 3\.png"):
        load(_spec(tmp_path), HERE)


def test_rows_of_many_row_groups_and_files_keep_their_order(tmp_path: Path) -> None:
    for part in range(2):
        table = pa.table({"image": IMAGES, "label": TWO})
        pq.write_table(table, tmp_path / f"train-{part}.parquet", row_group_size=3)
    data = load(_spec(tmp_path, validation_size=1, test_size=1), HERE)
    assert data.size("train") == 38 and _right(data)
    assert set(np.unique(data.raw("train"))) == set(range(COUNT))
