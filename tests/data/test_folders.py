"""Image folders: splits by their names, classes by their pictures, and what is left out."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ktbench.data import DataInfo, describe, load
from ktbench.records import DataSpec, KtbenchError
from tests.support.running import Commands, write_matrix

HERE = Path()


def _fill(root: Path, *folders: str, count: int = 10, ending: str = "png") -> Path:
    """Grey pictures in each folder."""
    for name in folders:
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            shade = np.full((8, 8), 20 * number, np.uint8)
            Image.fromarray(shade).save(root / name / f"{number}.{ending}")
    return root


def _spec(root: Path) -> DataSpec:
    return DataSpec(source="folder", path=str(root))


def _told(root: Path) -> DataInfo:
    info = describe(_spec(root), HERE)
    data = load(_spec(root), HERE)
    assert [data.size("train"), data.size("test")] == [info.train_size, info.test_size]
    return info


def _classes(root: Path) -> tuple[str, ...]:
    contents = _told(root).contents
    assert contents is not None
    return contents.classes


def _refused(root: Path) -> str:
    with pytest.raises(KtbenchError) as caught:
        describe(_spec(root), HERE)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("train", "other"),
    [
        ("train", "val"),
        ("training", "testing"),
        ("Train", "Test"),
        ("TRAIN", "VALID"),
        ("train", "dev"),
        ("Training", "Evaluation"),
        ("training_set", "test_set"),
        ("seg_train", "seg_test"),
        ("train2017", "val2017"),
        ("train/train", "test/test"),
    ],
)
def test_folders_named_as_splits_are_splits_and_no_classes(
    tmp_path: Path, train: str, other: str
) -> None:
    _fill(tmp_path, *(f"{split}/{name}" for split in (train, other) for name in ("cat", "dog")))
    info = _told(tmp_path)
    assert info.num_classes == 2
    assert 20 in (info.validation_size, info.test_size)


def test_splits_within_class_folders_are_splits(tmp_path: Path) -> None:
    _fill(tmp_path, *(f"{name}/{split}" for split in ("train", "test") for name in ("cat", "dog")))
    assert _classes(tmp_path) == ("cat", "dog")
    assert _told(tmp_path).test_size == 20


def test_a_class_may_have_the_name_of_a_split(tmp_path: Path) -> None:
    assert _classes(_fill(tmp_path, "train", "bus", "test tube")) == ("bus", "test tube", "train")


@pytest.mark.parametrize(
    ("folders", "reason"),
    [
        (("train", "test"), "named as splits"),
        (("train/a", "train/b", "training/a"), "both for the train split"),
        (("val/a", "test/a"), "no folder of class folders is named train"),
        (("test/a", "cat", "dog"), "no folder of class folders is named train"),
        (("train/day", "bus/day"), "a split or a class"),
        (("train/a", "train/b", "test images/a"), "seems to be a split, too"),
        (("cat/train", "cat/test", "dog"), "hold the splits"),
        (("train/cat", "train/dog", "test/Cat"), r"classes without a training image (Cat)"),
        (("archive/cat", "archive/dog"), "give data.path"),
        (("cat",), "one class only"),
    ],
)
def test_folders_that_could_be_splits_or_classes_are_asked_about(
    tmp_path: Path, folders: tuple[str, ...], reason: str
) -> None:
    assert reason in _refused(_fill(tmp_path, *folders))


def test_what_programs_leave_behind_is_no_class_and_no_picture(tmp_path: Path) -> None:
    _fill(tmp_path, "cat", "dog", ".git", ".ipynb_checkpoints", "__MACOSX/cat", "cat/.thumbs")
    (tmp_path / "cat" / "._0.png").write_bytes(b"\0\5\x16\7")
    (tmp_path / "cat" / "folder.png").mkdir()
    (tmp_path / "empty").mkdir()
    info = _told(tmp_path)
    assert info.num_classes == 2
    assert info.train_size + info.validation_size + info.test_size == 20
    assert info.contents is not None
    assert info.contents.notes == ("no class, as it holds no picture: empty",)


def test_what_is_not_read_is_told(tmp_path: Path) -> None:
    _fill(tmp_path, "train/cat", "train/dog", "test", "more")
    (tmp_path / "train" / "cat" / "0.heic").write_bytes(b"")
    contents = _told(tmp_path).contents
    assert contents is not None
    told = "; ".join(contents.notes)
    assert "test: 10 pictures without class folders" in told
    assert "more: 10 pictures beside the splits" in told and "1 file with .heic" in told


def test_linked_folders_are_read_and_loops_are_not(tmp_path: Path) -> None:
    pool = _fill(tmp_path / "pool", "cat", "dog")
    root = tmp_path / "root"
    (root / "dog").mkdir(parents=True)
    (root / "cat").symlink_to(pool / "cat")
    (root / "dog" / "more").symlink_to(pool / "dog")
    (root / "dog" / "back").symlink_to(root)
    contents = _told(root).contents
    assert contents is not None and contents.classes == ("cat", "dog")
    assert sum(map(sum, contents.counts.values())) == 20
    assert "dog/back" in contents.notes[0]


def test_a_link_that_leads_nowhere_is_named(tmp_path: Path) -> None:
    _fill(tmp_path, "cat", "dog")
    (tmp_path / "cat" / "gone.png").symlink_to("nowhere.png")
    assert "gone.png: the link leads nowhere" in _refused(tmp_path)


@pytest.mark.parametrize("ending", ["jfif", "pgm", "ppm", "tif", "bmp", "JPG", "jpe", "tga"])
def test_pictures_of_every_format_are_read(tmp_path: Path, ending: str) -> None:
    assert _told(_fill(tmp_path, "cat", "dog", ending=ending)).train_size == 14


def test_names_that_are_not_utf_8_are_read(tmp_path: Path) -> None:
    odd = os.fsdecode(b"caf\xe9")
    _fill(tmp_path, odd, "dog")
    (tmp_path / "dog" / "0.png").rename(tmp_path / "dog" / os.fsdecode(b"\xff.png"))
    assert _classes(tmp_path) == ("caf\\xe9", "dog")


def test_images_of_one_split_that_are_larger_are_refused_before_training(tmp_path: Path) -> None:
    _fill(tmp_path, "train/a", "train/b", "test/a")
    for file in (tmp_path / "test" / "a").iterdir():
        Image.new("L", (9, 9)).save(file)
    assert "mixed sizes" in _refused(tmp_path) and "1×9×9" in _refused(tmp_path)


@pytest.mark.slow
def test_plan_lists_the_classes_with_their_images_in_each_split(
    ktbench: Commands, tmp_path: Path
) -> None:
    names = [f"class{number:02}" for number in range(30)]
    _fill(tmp_path / "data", *names, count=5)
    spec = {"source": "folder", "path": str(tmp_path / "data"), "validation_size": 30}
    matrix = write_matrix(tmp_path / "m.yaml", data=spec, methods=["none"], teachers=[])
    told = json.loads(ktbench("plan", matrix, "--json").out)["data"][0]
    assert told["classes"] == names and sum(told["counts"]["train"]) == 90
    text = ktbench("plan", matrix).out
    assert "class00" in text and "class29" in text and "class15" not in text
    assert "… 18 more" in text and "90" in text


@pytest.mark.slow
def test_plan_refuses_what_a_run_would(ktbench: Commands, tmp_path: Path) -> None:
    _fill(tmp_path / "data", "train/cat", "train/dog", "test/bird")
    spec = {"source": "folder", "path": str(tmp_path / "data")}
    matrix = write_matrix(tmp_path / "m.yaml", data=spec, methods=["none"], teachers=[])
    for command in ("plan", "run"):
        answer = ktbench(command, matrix)
        assert answer.code == 2 and "without a training image (bird)" in answer.error
