"""Pictures of every depth and kind become the pixels that a viewer shows, or are refused."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms

from ktbench.data.pixels import decode, read_all
from ktbench.records import KtbenchError

SHADES = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
RAMP = np.rint(SHADES / 257).astype(np.uint8)
COLOURS = np.stack([RAMP, 255 - RAMP, RAMP.T], axis=-1)


def _encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _seen(image: Image.Image | NDArray[Any], kind: str, **options: Any) -> NDArray[np.uint8]:
    """(C, H, W) of an image that is written in a format and read again."""
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    return decode(_encoded(image, kind, **options), "x", None)


def _refused(data: bytes) -> str:
    with pytest.raises(KtbenchError) as caught:
        read_all(lambda row: decode(data, "odd/file.png", None), np.arange(1), str)
    assert "\n" not in str(caught.value) and "odd/file.png" in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_are_scaled_and_not_clipped(kind: str) -> None:
    assert (_seen(SHADES, kind) == RAMP).all()
    assert (_seen(SHADES.astype(">u2"), "TIFF") == RAMP).all()


def test_32_bits_are_scaled_where_their_white_is_known_and_refused_elsewhere() -> None:
    whole = (SHADES / 65535 * (2**31 - 1)).astype(np.int32)
    assert abs(_seen(whole, "TIFF").astype(int) - RAMP).max() <= 1
    small = _encoded(Image.fromarray(SHADES.astype(np.int32)), "TIFF")
    assert "32-bit values from 0 to 65535" in _refused(small)
    negative = _encoded(Image.fromarray(SHADES.astype(np.int32) - 9), "TIFF")
    assert "negative" in _refused(negative)


def test_floats_between_0_and_1_are_scaled() -> None:
    assert (_seen((SHADES / 65535).astype(np.float32), "TIFF") == RAMP).all()


@pytest.mark.parametrize(("worst", "reason"), [(255, "to 255"), (-1, "from -1"), (np.nan, "NaN")])
def test_floats_without_a_known_white_are_refused(worst: float, reason: str) -> None:
    values = (SHADES / 65535).astype(np.float32)
    values[0, 0] = worst
    assert reason in _refused(_encoded(Image.fromarray(values), "TIFF"))


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_a_drawing_that_is_alpha_alone_lies_on_white(mode: str) -> None:
    image = Image.new(mode, (8, 8))
    image.putalpha(Image.fromarray(RAMP))
    pixels = _seen(image, "PNG")
    assert pixels.shape == (mode.count("RGB") * 2 + 1, 8, 8)
    assert (pixels == 255 - RAMP).all()


def test_transparent_colours_and_palette_entries_are_white() -> None:
    palette = Image.fromarray(RAMP).convert("P")
    for image in (palette, Image.fromarray(RAMP)):
        pixels = _seen(image, "PNG", transparency=0)
        assert (pixels[:, 0, 0] == 255).all() and (pixels[:, 7, 7] == 255).all()
        assert (pixels[:, 0, 1] < 50).all()
    assert _seen(SHADES, "PNG", transparency=0)[0, 0, 0] == 255


def test_white_on_transparent_is_refused_since_nothing_would_be_left() -> None:
    image = Image.new("LA", (8, 8), 255)
    image.putalpha(Image.fromarray(RAMP))
    assert "white on transparent" in _refused(_encoded(image, "PNG"))


def test_opaque_alpha_changes_nothing() -> None:
    image = Image.fromarray(COLOURS)
    assert (_seen(image.convert("RGBA"), "PNG") == _seen(image, "PNG")).all()


def test_every_colour_space_becomes_the_same_rgb() -> None:
    image = Image.fromarray(COLOURS)
    plain = _seen(image, "PNG").astype(int)
    screen, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    spaces = [image.convert("CMYK"), image.convert("YCbCr")]
    spaces.append(ImageCms.profileToProfile(image, screen, lab, outputMode="LAB"))
    for other in spaces:
        assert abs(_seen(other, "TIFF") - plain).mean() < 8, other.mode


def test_one_bit_is_black_and_white() -> None:
    assert set(np.unique(_seen(Image.fromarray(RAMP).convert("1"), "PNG"))) == {0, 255}


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_exif_says_which_side_is_up(kind: str) -> None:
    turned = {3: np.rot90(RAMP, 2), 6: np.rot90(RAMP, -1), 8: np.rot90(RAMP), 2: RAMP[:, ::-1]}
    for orientation, upright in turned.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        assert (_seen(RAMP, kind, exif=exif)[0] == upright).all()
        assert (_seen(SHADES, kind, exif=exif)[0] == upright).all()


@pytest.mark.parametrize("kind", ["GIF", "PNG", "TIFF", "WEBP"])
def test_an_animation_or_pages_are_refused(kind: str) -> None:
    frames = [Image.fromarray(COLOURS), Image.fromarray(255 - COLOURS)]
    data = _encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    assert "holds 2 pictures" in _refused(data)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"])
def test_a_torn_file_is_named(kind: str) -> None:
    noise = np.random.RandomState(0).randint(0, 256, (32, 32, 3)).astype(np.uint8)
    data = _encoded(Image.fromarray(noise), kind)
    assert "not a readable image" in _refused(data[: len(data) // 2])


@pytest.mark.parametrize("side", [10_000, 60_000, 2**31 - 1])
def test_a_decompression_bomb_is_refused_before_it_is_decoded(side: int) -> None:
    def chunk(name: bytes, data: bytes) -> bytes:
        sum_of = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + sum_of

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    assert "make it smaller" in _refused(b"\x89PNG\r\n\x1a\n" + header + body)


def test_how_many_pictures_cannot_be_read_is_told_with_the_first() -> None:
    data = [_encoded(Image.fromarray(RAMP), "PNG"), b"torn", b"worn"]
    with pytest.raises(KtbenchError, match=r"row 1: not a readable image; 1 more cannot be read"):
        read_all(lambda row: decode(data[row], f"row {row}", None), np.arange(3), str)
