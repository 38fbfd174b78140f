"""What programs beside exported files do to a sample is what training does to it."""

from __future__ import annotations

import io
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ktbench.data import pixels, sounds
from ktbench.tasks._reading import read_picture, read_sound
from tests.support.sounds import tone


def gradient(mode: str, size: tuple[int, int]) -> Image.Image:
    """Return a picture with other values everywhere, half transparent where it can be."""
    rows, columns = np.mgrid[: size[1], : size[0]]
    bands = [(rows * 7 + columns * 3 + 40 * band) % 256 for band in range(4)]
    plain = Image.fromarray(np.stack(bands[:3], 2).astype(np.uint8))
    if mode in ("LA", "RGBA", "PA"):
        plain.putalpha(Image.fromarray((columns * 255 // size[0]).astype(np.uint8)))
    return plain.convert(mode)


def about(shape: tuple[int, ...], layout: str, **data: Any) -> dict[str, Any]:
    given = {"shape": [None, *shape], "layout": layout, "name": "image"}
    return {"input": given, "provenance": {"cell": {"data": data}}}


CASES: dict[str, tuple[str, tuple[int, int], dict[str, Any]]] = {
    "rgb.png": ("RGB", (9, 9), {}),
    "grey.png": ("L", (9, 9), {}),
    "bits.png": ("1", (9, 9), {}),
    "palette.png": ("P", (9, 9), {}),
    "alpha.png": ("RGBA", (9, 9), {}),
    "grey-alpha.png": ("LA", (9, 9), {}),
    "photo.jpg": ("RGB", (40, 40), {"quality": 95}),
    "turned.jpg": ("RGB", (40, 40), {"exif": 6}),
    "print.jpg": ("CMYK", (40, 40), {}),
}


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("name", CASES)
def test_a_picture_becomes_the_pixels_that_training_reads(
    name: str, layout: str, tmp_path: Path
) -> None:
    mode, size, options = CASES[name]
    if "exif" in options:
        exif = Image.Exif()
        exif[0x0112] = options["exif"]
        options = {"exif": exif.tobytes()}
    path = tmp_path / name
    gradient(mode, size).save(path, **options)
    expected = pixels.decode(path.read_bytes(), name, 9)  # (C, H, W)
    shape = expected.shape if layout == "NCHW" else (*expected.shape[1:], expected.shape[0])
    given = read_picture(str(path), about(shape, layout))["image"]
    assert given.dtype == np.float32 and given.shape == (1, *shape)
    whole = given[0] if layout == "NCHW" else given[0].transpose(2, 0, 1)
    assert np.abs(whole - expected).max() <= (1 if "alpha" in name else 0)  # rounding on white


def test_a_picture_that_is_not_square_is_made_to_fit_as_the_data_was(tmp_path: Path) -> None:
    path = tmp_path / "wide.png"
    gradient("L", (20, 10)).save(path)
    made = {
        fit: read_picture(str(path), about((1, 10, 10), "NCHW", fit=fit))["image"][0, 0]
        for fit in ("crop", "stretch", "pad")
    }
    original = np.asarray(Image.open(path))
    assert np.array_equal(made["crop"], original[:, 5:15])
    assert not made["pad"][:2].any() and made["pad"][3:7].any()
    assert made["stretch"].shape == (10, 10) and not np.array_equal(made["stretch"], made["crop"])


def test_more_than_eight_bits_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 40_000, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(ValueError, match="save it with 8"):
        read_picture(str(tmp_path / "deep.png"), about((1, 4, 4), "NCHW"))


def written(width: int, channels: int, rate: int, seconds: float) -> bytes:
    """Return a wav file of samples of some bytes each."""
    values = tone(500.0, seconds, rate=rate).astype(np.int64)
    if width == 1:
        raw = (values // 256 + 128).astype(np.uint8)[:, None]
    else:
        shifted = (values << 8 * (width - 2)).astype("<i4")
        raw = shifted.view(np.uint8).reshape(-1, 4)[:, :width]
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(channels)
        sound.setsampwidth(width)
        sound.setframerate(rate)
        sound.writeframes(np.repeat(raw, channels, 0).tobytes())
    return file.getvalue()


@pytest.mark.parametrize("seconds", [0.3, 0.5, 0.7])
@pytest.mark.parametrize(("width", "channels", "rate"), [(1, 1, 4000), (2, 2, 4000),
                                                         (3, 1, 4000), (4, 1, 8000)])  # fmt: skip
def test_a_sound_becomes_the_samples_that_training_reads(
    width: int, channels: int, rate: int, seconds: float, tmp_path: Path
) -> None:
    path = tmp_path / "sound.wav"
    path.write_bytes(written(width, channels, rate, seconds))
    expected = sounds.formed(sounds.decode(path.read_bytes(), "sound"), 4000, 2000)
    given = read_sound(str(path), {"input": {"name": "sound", "rate": 4000, "shape": [None, 2000]}})
    assert given["sound"].shape == (1, 2000)
    assert np.array_equal(given["sound"][0], expected.astype(np.float32))
