"""Decode pictures to 8-bit pixels, as a viewer on a white page shows them.

Pictures without such a meaning (floats outside 0 to 1, animations, damaged files) are refused by
name; nothing is clipped or dropped.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Any, Literal, NoReturn

import numpy as np
from numpy.typing import NDArray

from ktbench.data.encoded import decode_all
from ktbench.data.sources import counted, one_line_of
from ktbench.records import KtbenchError

Pixels = NDArray[np.uint8]
Fit = Literal["crop", "stretch", "pad"]
"""See `DataSpec.fit`."""

_GREY = {"1", "L", "LA", "La", "F"}
_SINGLE_SHOT = {"MPO", "PSD"}
"""Formats whose first frame is the picture, and whose others are its previews or layers."""
_UNSAFE = {"EPS"}
"""Formats that are programs: decoding one would run it."""
_WIDTH, _HEIGHT, _ORIENTATION = 0x0100, 0x0101, 0x0112
_ON_THEIR_SIDE = range(5, 9)
"""Orientations by which width and height change places."""
_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339
_SIGNED = 2
_SUMMED = 1 << 20
"""Values that are summed at a time."""
_DARKEST_32_BITS = 1 << 28
"""Least maximum at which a 32-bit picture, scaled by its depth, keeps 16 shades."""


class MixedSizesError(KtbenchError):
    """Pictures of several shapes (C, H, W), with the name of an example of each."""

    def __init__(self, text: str, examples: Mapping[tuple[int, ...], str]) -> None:
        super().__init__(text)
        self.text, self.examples = text, dict(examples)

    def __reduce__(self) -> tuple[type[MixedSizesError], tuple[str, dict[tuple[int, ...], str]]]:
        """Pickle by its parts."""
        return MixedSizesError, (self.text, self.examples)


def decode(data: bytes, where: str, size: int | None, fit: Fit = "crop") -> Pixels:
    """Decode a picture to (C, H, W) uint8: one channel for grey pictures, else three.

    Other depths are scaled to 8 bits, transparency is put on white, EXIF orientation is applied;
    `size` and `fit` are those of `resized`. Raises KtbenchError that names `where` for anything
    that is not one picture.
    """
    with _picture(io.BytesIO(data), where) as image:
        image.load()
        plain = _on_white(_upright(image))
    return resized(plain, size, fit)


def shape_in_header(file: IO[bytes], where: str) -> tuple[int, int, int]:
    """Return the shape (C, H, W) that a picture has when decoded, from its header alone.

    Raises as `decode` for a header that is damaged or not that of one picture.
    """
    with _picture(file, where) as image:
        channels = 1 if image.mode in _GREY or image.mode.startswith("I") else 3
        width, height = _upright_size(image)
    return channels, height, width


def _upright_size(image: Any) -> tuple[int, int]:
    """Return width and height as `_upright` makes them, without decoding the picture."""
    from PIL import Image

    width, height = image.size
    try:
        tags = Image.Image.getexif(image)  # a PNG's own method decodes the picture
        on_its_side = tags.get(_ORIENTATION, 1) in _ON_THEIR_SIDE
        if image.format == "TIFF":  # Pillow's size is turned or not, which depends on its version
            width, height = int(tags[_WIDTH]), int(tags[_HEIGHT])
    except Exception:  # damaged EXIF of many kinds
        return width, height
    return (height, width) if on_its_side else (width, height)


@contextmanager
def _picture(file: IO[bytes], where: str) -> Iterator[Any]:
    """Open a picture, of which only the header is read yet; for errors see `decode`."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(file) as image:
            _refuse_what_is_no_single_picture(image)
            yield image
    except KtbenchError as error:
        raise KtbenchError(f"data: {where}: {error}") from error
    except Image.DecompressionBombError as error:
        raise KtbenchError(f"data: {where}: far too many pixels: make it smaller") from error
    except UnidentifiedImageError as error:  # whose text names an object in memory
        raise KtbenchError(f"data: {where}: not a readable image") from error
    except Exception as error:  # decoders of damaged files raise many kinds
        raise KtbenchError(f"data: {where}: not a readable image ({one_line_of(error)})") from error


def resized(image: Any, size: int | None, fit: Fit = "crop") -> Pixels:
    """Convert a Pillow image (L or RGB) to (C, H, W) uint8, `size` pixels per side if given.

    What is not square is cropped in the middle, stretched, or padded with black, as `fit` says.
    """
    from PIL import Image, ImageOps

    if size is not None and image.size != (size, size):
        square, bilinear = (size, size), Image.Resampling.BILINEAR
        if fit == "stretch" or image.width == image.height:
            image = image.resize(square, bilinear)
        elif fit == "crop":
            image = ImageOps.fit(image, square, bilinear)
        else:
            image = _padded(image, size)
    pixels = np.asarray(image, dtype=np.uint8)
    return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _padded(image: Any, size: int) -> Any:
    """Put the whole of a picture in the middle of a black square."""
    from PIL import Image

    share = size / max(image.size)
    width, height = (max(1, round(share * side)) for side in image.size)
    square = Image.new(image.mode, (size, size))
    whole = image.resize((width, height), Image.Resampling.BILINEAR)
    square.paste(whole, ((size - width) // 2, (size - height) // 2))
    return square


def read_all(
    one: Callable[[int], Pixels], rows: NDArray[np.int64], name_of: Callable[[int], str]
) -> Pixels:
    """Decode every row to (n, C, H, W).

    Raises KtbenchError with the first row that cannot be read and how many more there are, or
    when the pictures are not of one size and kind.
    """
    return stack(decode_all(one, rows, name_of), lambda place: name_of(int(rows[place])))


def stack(images: list[Pixels], name_of: Callable[[int], str]) -> Pixels:
    """Stack pictures of one shape; raises KtbenchError that names two which differ."""
    first: dict[tuple[int, ...], int] = {}
    for place, image in enumerate(images):
        first.setdefault(image.shape, place)
    if len(first) > 1:
        refuse_mixed({shape: name_of(place) for shape, place in first.items()})
    return np.stack(images)


def refuse_mixed(
    examples: Mapping[tuple[int, ...], str], counts: Mapping[tuple[int, ...], int] | None = None
) -> NoReturn:
    """Raise MixedSizesError for pictures of several shapes (C, H, W), with an example of each.

    With `counts` the most common shapes are named, each with how many there are.
    """
    shapes = sorted(examples)
    channels = {shape[0]: examples[shape] for shape in shapes}
    if len({shape[1:] for shape in shapes}) == 1:
        raise MixedSizesError(
            "data: grey and colour images are mixed (grey: "
            f"{channels[1]}; colour: {channels[3]}): convert them to one kind",
            examples,
        )
    if counts is not None:
        shapes.sort(key=lambda shape: -counts[shape])
    many = {s: "" if counts is None else f" ({counted(counts[s], 'image')})" for s in shapes}
    sizes = "; ".join(f"{'×'.join(map(str, s))}{many[s]}: {examples[s]}" for s in shapes[:3])
    more = f" and {len(shapes) - 3:,} more sizes" if len(shapes) > 3 else ""
    raise MixedSizesError(
        f"data: images of mixed sizes ({sizes}{more}): set data.image_size", examples
    )


def channel_sums(images: Pixels) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return per channel the sum of the values of images (n, C, H, W), and that of their squares.

    Both are exact, and nothing is copied that grows with n.
    """
    totals = np.zeros(images.shape[1], np.int64)
    squares = totals.copy()
    rows = max(1, _SUMMED // max(1, images[:1].size))
    for start in range(0, len(images), rows):
        some = images[start : start + rows]
        totals += some.sum(axis=(0, 2, 3), dtype=np.int64)
        squares += np.square(some, dtype=np.int32).sum(axis=(0, 2, 3), dtype=np.int64)
    return tuple(totals.tolist()), tuple(squares.tolist())


# ---------------------------------------------------------------- what counts as a picture


def _refuse_what_is_no_single_picture(image: Any) -> None:
    """Refuse by header alone, before a pixel is decoded."""
    from PIL import Image

    width, height = image.size
    most = Image.MAX_IMAGE_PIXELS
    if most is not None and width * height > most:
        raise KtbenchError(
            f"{width:,} × {height:,} pixels, more than {most:,} in all: make it smaller"
        )
    if image.format in _UNSAFE:
        raise KtbenchError(f"{image.format} is a program that draws: convert it to PNG")
    if getattr(image, "is_animated", False) and image.format not in _SINGLE_SHOT:
        raise KtbenchError(
            f"holds {image.n_frames} pictures (an animation or pages): keep one of them"
        )


def _upright(image: Any) -> Any:
    """Turn a picture as its EXIF orientation says."""
    from PIL import ImageOps

    try:
        turned = image.getexif().get(_ORIENTATION, 1)
        if turned not in range(2, 9):
            return image
        upright = ImageOps.exif_transpose(image)
        upright.format = image.format  # which a copy forgets, and which says what values mean
        return upright
    except Exception:  # damaged EXIF of many kinds: the pixels are whole, and viewers show them
        return image


def _on_white(image: Any) -> Any:
    """Convert to 8 bits: mode L for grey pictures, RGB for all others."""
    if image.mode.startswith("I") or (image.mode == "L" and _is_signed(image)):
        return _from_integers(image)
    if image.mode == "F":
        return _from_floats(image)
    if image.mode == "LAB":
        return _from_lab(image)
    mode = "L" if image.mode in _GREY else "RGB"
    if image.has_transparency_data:
        return _flattened(image, mode)
    return image.convert(mode)


def _flattened(image: Any, mode: str) -> Any:
    """Put a picture with transparency on white."""
    from PIL import Image

    straight = {"La": "LA", "RGBa": "RGBA"}.get(image.mode)
    image = image.convert(straight or ("LA" if mode == "L" else "RGBA"))
    alpha = image.getchannel("A")
    colour = image.convert(mode)
    least, most = alpha.getextrema()
    if least == 255:
        return colour
    page = Image.new(mode, image.size, "white")
    page.paste(colour, mask=alpha)
    pixels = np.asarray(page)
    if least != most and (pixels == 255).all():
        raise KtbenchError("white on transparent: nothing is left of it on white: flatten it")
    return page


# ---------------------------------------------------------------- other depths


def _tag(image: Any, number: int) -> int | None:
    """Return the first value of a TIFF tag."""
    value = image.tag_v2.get(number) if image.format == "TIFF" else None
    return int(value[0] if isinstance(value, tuple) else value) if value is not None else None


def _is_signed(image: Any) -> bool:
    return _tag(image, _SAMPLE_FORMAT) == _SIGNED


def _from_integers(image: Any) -> Any:
    """Scale signed integers, or more than 8 bits, so that the depth's largest value is white."""
    tiff = image.format == "TIFF"
    wide = image.mode == "I" and image.format not in ("PNG", "PPM")
    bits = _tag(image, _BITS) or (32 if wide else 16)
    signed = _is_signed(image)
    values = np.asarray(image).astype(np.int64)
    if tiff and bits == 32 and not signed:
        values &= 0xFFFFFFFF  # Pillow holds 32 bits as signed, whatever they are
    if tiff and bits == 8:
        values -= (values > 127) * 256  # and 8 bits as unsigned
    least, most = int(values.min()), int(values.max())
    if least < 0:
        raise KtbenchError(f"has negative values (from {least} to {most}): save it with 8 bits")
    if bits == 32 and 0 < most < _DARKEST_32_BITS:
        raise KtbenchError(
            f"32-bit values from {least} to {most}, whose white is not known: save it with 8 or "
            "16 bits"
        )
    shades = _shades(values / ((1 << (bits - signed)) - 1), image)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        shades[values == transparent] = 255
    return _image(shades)


def _from_floats(image: Any) -> Any:
    """Scale floats from 0 (black) to 1 (white)."""
    values = np.asarray(image).astype(np.float64)
    if not np.isfinite(values).all():
        raise KtbenchError("has values that are not finite (NaN or infinity): save it with 8 bits")
    least, most = float(values.min()), float(values.max())
    if least < 0 or most > 1:
        raise KtbenchError(
            f"floats from {least:g} to {most:g}, whose white is not known: scale them to lie "
            "between 0 and 1"
        )
    return _image(_shades(values, image))


def _shades(shares: NDArray[np.float64], image: Any) -> Pixels:
    """Convert shares of white to 0 to 255; a TIFF may count from white instead of from black."""
    if image.format == "TIFF" and _tag(image, _PHOTOMETRIC) == 0:
        shares = 1 - shares
    return np.rint(shares * 255).astype(np.uint8)


def _from_lab(image: Any) -> Any:
    from PIL import ImageCms

    lab, screen = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    return ImageCms.profileToProfile(image, lab, screen, outputMode="RGB")


def _image(pixels: Pixels) -> Any:
    from PIL import Image

    return Image.fromarray(pixels)
