"""Data sets, their splits and the data stream."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from ktbench.data import DataInfo, Dataset, Stream, describe, load
from ktbench.data.dataset import split_rows
from ktbench.records import Augmentation, DataSpec, KtbenchError
from ktbench.tasks.image_classification import image_signature

HERE = Path()
DIGITS = DataSpec(source="digits", train_size=120, augment=Augmentation(crop_padding=1, flip=True))


def _png(value: int, size: tuple[int, int] = (8, 8), mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size, value if mode == "L" else (value, 255 - value, 7)).save(buffer, "PNG")
    return buffer.getvalue()


def _parquet(folder: Path, split: str, images: list[bytes], labels: list[int]) -> None:
    table = pa.table({"img": [{"bytes": b, "path": None} for b in images], "label": labels})
    pq.write_table(table, folder / f"{split}.parquet")


def test_train_validation_and_test_share_no_image() -> None:
    labels = {"train": np.repeat(np.arange(10), 50)}
    rows = {k: set(v.tolist()) for k, (_, v) in split_rows(DIGITS, labels).items()}
    assert not rows["train"] & rows["validation"]
    assert not rows["train"] & rows["test"]
    assert not rows["validation"] & rows["test"]


def test_the_test_set_does_not_depend_on_the_training_size() -> None:
    small = load(DIGITS, HERE)
    whole = load(DIGITS.model_copy(update={"train_size": None}), HERE)
    assert torch.equal(small.raw("test"), whole.raw("test"))
    assert torch.equal(small.raw("validation"), whole.raw("validation"))
    assert small.size("train") == 120 < whole.size("train")


def test_every_class_has_its_share_of_a_small_training_set() -> None:
    counts = torch.bincount(load(DIGITS, HERE).labels("train"))
    assert len(counts) == 10
    assert counts.min() >= 11
    assert counts.max() <= 13


def test_a_smaller_training_set_lies_within_a_larger_one() -> None:
    labels = {"train": np.repeat(np.arange(5), 100)}
    spec = DataSpec(source="digits")
    sets = [
        set(split_rows(spec.model_copy(update={"train_size": n}), labels)["train"][1].tolist())
        for n in (50, 200)
    ]
    assert sets[0] <= sets[1]


def test_a_split_seed_chooses_other_test_images() -> None:
    other = DIGITS.model_copy(update={"split_seed": 1})
    assert not torch.equal(load(DIGITS, HERE).raw("test"), load(other, HERE).raw("test"))


def test_normalisation_comes_from_the_training_images_alone() -> None:
    data = load(DIGITS, HERE)
    inputs = data.inputs(data.raw("train"))
    assert abs(float(inputs.mean())) < 1e-4
    assert abs(float(inputs.std(unbiased=False)) - 1) < 1e-4
    assert float(data.statistics[0]) == pytest.approx(float(data.raw("train").double().mean()))


def test_planning_knows_a_data_set_without_reading_its_images() -> None:
    assert describe(DIGITS, HERE) == DataInfo(image_signature(10, (1, 8, 8)), 120, 144, 359)


# ---------------------------------------------------------------- the stream


def _stream(seed: int = 3) -> Stream:
    return Stream(load(DIGITS, HERE), seed=seed, batch_size=32)


def test_a_batch_is_a_function_of_seed_epoch_and_indices() -> None:
    """The same sample looks the same whatever stands beside it, whenever it is asked for."""
    stream, indices = _stream(), torch.tensor([5, 99, 0, 42])
    together = stream.inputs(indices, epoch=7)
    for place, index in enumerate(indices):
        assert torch.equal(stream.inputs(index.view(1), epoch=7)[0], together[place])


@pytest.mark.slow
def test_another_process_rebuilds_the_same_batches() -> None:
    program = (
        "import torch, hashlib; from tests.data.test_data import _stream; s = _stream();"
        "x = torch.cat([s.inputs(i, e) for e in (0, 5) for i in s.order(e)]);"
        "print(hashlib.sha256(x.contiguous().numpy().tobytes()).hexdigest())"
    )
    answers = {
        subprocess.run(
            [sys.executable, "-c", program], check=True, capture_output=True, text=True
        ).stdout
        for _ in range(2)
    }
    stream = _stream()
    here = torch.cat([stream.inputs(i, e) for e in (0, 5) for i in stream.order(e)])
    import hashlib

    assert answers == {hashlib.sha256(here.contiguous().numpy().tobytes()).hexdigest() + "\n"}


def test_epochs_and_seeds_change_order_and_augmentation() -> None:
    stream, indices = _stream(), torch.arange(64)
    assert not torch.equal(stream.order(0), stream.order(1))
    assert not torch.equal(stream.inputs(indices, 0), stream.inputs(indices, 1))
    assert not torch.equal(stream.order(0), _stream(seed=4).order(0))


def test_an_epoch_shows_no_image_twice() -> None:
    order = _stream().order(2).flatten()
    assert len(order.unique()) == len(order) == 96


def test_crops_and_flips_are_those_of_the_padded_image() -> None:
    """Every augmented image is one of the 2 · 9 that shifts by up to a pixel and mirrors make."""
    stream = _stream()
    indices = torch.arange(120)
    seen = set()
    for row, image in enumerate(stream.samples.augmented(indices, 0)[..., 0]):
        padded = torch.nn.functional.pad(stream.dataset.raw("train")[row, 0], (1, 1, 1, 1))
        views = {
            (y, x, flip): padded[y : y + 8, x : x + 8].flip(1)
            if flip
            else padded[y : y + 8, x : x + 8]
            for y in range(3)
            for x in range(3)
            for flip in (False, True)
        }
        matching = [key for key, view in views.items() if torch.equal(view, image)]
        assert matching
        seen.update(matching)
    assert len(seen) == 18


def test_without_augmentation_a_batch_is_the_normalised_images() -> None:
    data = load(DIGITS.model_copy(update={"augment": Augmentation()}), HERE)
    stream = Stream(data, seed=0, batch_size=16)
    indices = torch.tensor([3, 1])
    torch.testing.assert_close(stream.inputs(indices, 4), data.inputs(data.raw("train")[indices]))


# ---------------------------------------------------------------- parquet, folder, hub


def test_parquet_in_hub_layout_gives_images_labels_and_class_names(tmp_path: Path) -> None:
    _parquet(tmp_path, "train", [_png(v) for v in range(40)], [v % 2 for v in range(40)])
    _parquet(tmp_path, "test", [_png(200)], [1])
    data = load(DataSpec(source="parquet", path=str(tmp_path), validation_size=4), HERE)
    assert data.signature.inputs[0].shape == (3, 8, 8)
    assert (data.size("train"), data.size("validation"), data.size("test")) == (36, 4, 1)
    assert data.raw("test")[0, :, 0, 0].tolist() == [200, 55, 7]
    assert data.classes == ("0", "1")


def test_an_image_folder_takes_its_classes_from_folder_names(tmp_path: Path) -> None:
    for name, value in (("cat", 10), ("ant", 240)):
        (tmp_path / name).mkdir()
        for number in range(20):
            (tmp_path / name / f"{number}.png").write_bytes(_png(value, mode="L"))
    data = load(DataSpec(source="folder", path=str(tmp_path)), HERE)
    assert data.classes == ("ant", "cat")
    assert data.signature.inputs[0].shape == (1, 8, 8)
    bright = data.raw("train").amin((1, 2, 3)) > 128
    assert torch.equal(bright, data.labels("train") == 0)


def test_a_path_may_name_an_environment_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _parquet(tmp_path, "train", [_png(v) for v in range(20)], [0, 1] * 10)
    spec = DataSpec(source="parquet", path="${KT_TEST_DATA}")
    monkeypatch.delenv("KT_TEST_DATA", raising=False)
    with pytest.raises(KtbenchError, match="export KT_TEST_DATA=FOLDER"):
        load(spec, HERE)
    monkeypatch.setenv("KT_TEST_DATA", str(tmp_path))
    assert load(spec, HERE).size("train") > 0


def _refused(spec: DataSpec) -> str:
    with pytest.raises(KtbenchError) as caught:
        load(spec, HERE)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_grey_among_colour_images_is_told_as_that(tmp_path: Path) -> None:
    images = [_png(v, mode="L" if v % 2 else "RGB") for v in range(20)]
    _parquet(tmp_path, "train", images, [0, 1] * 10)
    spec = DataSpec(source="parquet", path=str(tmp_path))
    assert "grey and colour images are mixed" in _refused(spec)


def test_images_of_mixed_sizes_are_refused_unless_a_size_is_set(tmp_path: Path) -> None:
    images = [_png(v, (8, 8) if v % 2 else (9, 8)) for v in range(20)]
    _parquet(tmp_path, "train", images, [0, 1] * 10)
    spec = DataSpec(source="parquet", path=str(tmp_path))
    assert "mixed sizes" in _refused(spec)
    assert load(spec.model_copy(update={"image_size": 8}), HERE).signature.size == "3×8×8"


def test_an_empty_data_set_is_refused(tmp_path: Path) -> None:
    schema = pa.schema(
        {"img": pa.struct({"bytes": pa.binary(), "path": pa.string()}), "label": pa.int64()}
    )
    pq.write_table(schema.empty_table(), tmp_path / "train.parquet")
    assert "empty" in _refused(DataSpec(source="parquet", path=str(tmp_path)))
    (tmp_path / "folder" / "cat").mkdir(parents=True)
    assert "empty" in _refused(DataSpec(source="folder", path=str(tmp_path / "folder")))


def test_a_broken_image_is_named(tmp_path: Path) -> None:
    _parquet(tmp_path, "train", [b"not an image"] * 20, [0, 1] * 10)
    assert "not a readable image" in _refused(DataSpec(source="parquet", path=str(tmp_path)))


def test_a_missing_path_and_a_truncated_file_are_named(tmp_path: Path) -> None:
    assert "no such file" in _refused(DataSpec(source="parquet", path=str(tmp_path / "nowhere")))
    (tmp_path / "train.parquet").write_bytes(b"PAR1 torn")
    assert "cannot read" in _refused(DataSpec(source="parquet", path=str(tmp_path)))


def test_more_images_than_there_are_is_refused() -> None:
    message = _refused(DIGITS.model_copy(update={"train_size": 5000}))
    assert "train_size is 5000" in message


@pytest.mark.slow
def test_the_hub_without_network_says_which_path_to_give(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    message = _refused(DataSpec(source="hub", path="someone/no-such-data-set"))
    assert "source: parquet" in message


@pytest.mark.slow
def test_a_hub_data_set_loads_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A local folder in hub layout stands in for the name: the same library call resolves it."""
    _parquet(tmp_path, "train", [_png(v) for v in range(20)], [0, 1] * 10)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    data: Dataset = load(DataSpec(source="hub", path=str(tmp_path)), HERE)
    assert data.size("train") == 14
