"""Pictures that are not square become square by `data.fit`; nothing changes for those that are."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image

from ktbench.data import load
from ktbench.data.pixels import Fit, decode, resized
from ktbench.records import DataSpec
from tests.support.photographs import pictures

FITS: tuple[Fit, ...] = ("crop", "stretch", "pad")


def _picture(width: int, height: int) -> Image.Image:
    return Image.fromarray(pictures(4, height, width, 3)[3])


def _table(folder: Path, sizes: list[tuple[int, int]]) -> DataSpec:
    images = []
    for size in sizes:
        buffer = io.BytesIO()
        _picture(*size).save(buffer, "PNG")
        images.append({"bytes": buffer.getvalue(), "path": None})
    labels = [number % 2 for number in range(len(sizes))]
    pq.write_table(pa.table({"img": images, "label": labels}), folder / "train.parquet")
    return DataSpec(source="parquet", path=str(folder), image_size=8)


@pytest.mark.parametrize(("width", "height"), [(48, 32), (32, 48), (33, 20), (100, 24)])
def test_a_crop_is_the_middle_of_the_picture_with_its_short_side_resized(
    width: int, height: int
) -> None:
    picture, short = _picture(width, height), min(width, height)
    ours = resized(picture, 16).transpose(1, 2, 0)
    left, top = (width - short) / 2, (height - short) / 2
    box = (left, top, left + short, top + short)
    middle = picture.resize((16, 16), Image.Resampling.BILINEAR, box=box)
    assert (ours == np.asarray(middle)).all()
    # As torchvision has it, resized first, the middle may lie half a pixel beside.
    long = round(16 * max(width, height) / short)
    size = (long, 16) if width > height else (16, long)
    whole = np.asarray(picture.resize(size, Image.Resampling.BILINEAR))
    y, x = (whole.shape[0] - 16) // 2, (whole.shape[1] - 16) // 2
    apart = np.abs(whole[y : y + 16, x : x + 16].astype(int) - ours)
    assert apart.mean() < 12


def test_a_stretched_picture_shows_all_of_it_and_a_padded_one_too_in_its_shape() -> None:
    picture = _picture(48, 24)
    stretched = resized(picture, 16, "stretch").transpose(1, 2, 0)
    assert (stretched == np.asarray(picture.resize((16, 16), Image.Resampling.BILINEAR))).all()
    padded = resized(picture, 16, "pad").transpose(1, 2, 0)
    whole = np.asarray(picture.resize((16, 8), Image.Resampling.BILINEAR))
    assert (padded[4:12] == whole).all()
    assert not padded[:4].any() and not padded[12:].any()
    thread = resized(_picture(400, 2), 8, "pad")
    assert thread.shape == (3, 8, 8) and thread[:, 3].any()


@pytest.mark.parametrize("fit", FITS)
def test_square_pictures_are_the_same_however_they_are_fitted(fit: Fit) -> None:
    def seen(size: int | None) -> NDArray[np.uint8]:
        buffer = io.BytesIO()
        _picture(20, 20).save(buffer, "PNG")
        return decode(buffer.getvalue(), "x", size, fit)

    plain = _picture(20, 20).resize((9, 9), Image.Resampling.BILINEAR)
    assert (seen(9) == np.asarray(plain).transpose(2, 0, 1)).all()
    assert (seen(20) == seen(None)).all()


@pytest.mark.slow
def test_the_datas_digest_changes_exactly_where_the_pixels_do(tmp_path: Path) -> None:
    def digests(spec: DataSpec) -> list[str]:
        each = [spec.model_copy(update={"fit": fit}) for fit in FITS]
        assert len({one.canonical for one in each}) == 3
        assert each[0].canonical == spec.canonical and "fit" not in spec.model_dump()
        return [load(one, Path()).digest for one in each]

    (tmp_path / "square").mkdir()
    assert len(set(digests(_table(tmp_path / "square", [(12, 12)] * 20)))) == 1
    assert len(set(digests(_table(tmp_path, [(12, 12), (12, 9)] * 10)))) == 3
