"""Changes of shapes for a batch of images (B, H, W, C), uint8: affine maps, and parts of images."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

FILL = 128
"""Grey of what a map brings in from outside, as in AutoAugment's code."""
TRIES = 10
"""Boxes that are drawn until one fits."""
BOX_DRAWS = 2 * TRIES + 2
"""Numbers that a box takes."""
Map = tuple[float, float, float, float, float, float]
"""(a, b, c, d, e, f): the pixel at (x, y) shows what was at (ax + by + c, dx + ey + f)."""
Whole = NDArray[np.int64]


# ---------------------------------------------------------------- affine maps


def shear_x(amount: float) -> Map:
    """Move each row by `amount` of its distance from the top."""
    return 1.0, amount, 0.0, 0.0, 1.0, 0.0


def shear_y(amount: float) -> Map:
    """Move each column by `amount` of its distance from the left."""
    return 1.0, 0.0, 0.0, amount, 1.0, 0.0


def shift(right: float, down: float) -> Map:
    """Move by some pixels."""
    return 1.0, 0.0, -right, 0.0, 1.0, -down


def turn(degrees: float, height: int, width: int) -> Map:
    """Turn counterclockwise about the middle."""
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    x, y = width / 2, height / 2
    return cosine, -sine, x - cosine * x + sine * y, sine, cosine, y - sine * x - cosine * y


def mapped(images: Tensor, maps: Tensor) -> Tensor:
    """Map each image by its row of `maps` (B, 6), float64, to the nearest pixel; outside is grey.

    Places are computed in whole numbers, 65536ths of a pixel as in Pillow, so that every machine
    chooses the same pixels.
    """
    count, height, width, channels = images.shape
    a, b, c, d, e, f = maps[:, :, None, None].unbind(1)  # each (B, 1, 1)
    real = (a, b, c + (a + b) / 2, d, e, f + (d + e) / 2)
    a, b, c, d, e, f = ((65536 * part + 0.5).floor().long() for part in real)
    x = torch.arange(width, device=images.device)
    y = torch.arange(height, device=images.device)[:, None]
    columns, rows = ((a * x + (b * y + c)) >> 16), ((d * x + (e * y + f)) >> 16)
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    first = torch.arange(count, device=images.device).view(-1, 1, 1) * height
    places = torch.where(inside, (first + rows) * width + columns, 0)
    chosen = images.reshape(-1, channels).index_select(0, places.flatten()).view(images.shape)
    return chosen.masked_fill_(~inside[..., None], FILL)


# ---------------------------------------------------------------- boxes


@dataclass(frozen=True)
class Boxes:
    """A box per image, in whole pixels, each (B,)."""

    top: Whole
    left: Whole
    height: Whole
    width: Whole
    fit: NDArray[np.bool_]
    """False where none of the drawn boxes fitted into the image; then the others are without use.
    """


def draw_boxes(
    numbers: NDArray[np.float64],
    size: tuple[int, int],
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> Boxes:
    """Draw boxes from even numbers (B, BOX_DRAWS): the first of TRIES that fits into the image.

    The area is even in `scale`, the logarithm of width / height is even in that of `ratio`, and
    each place is equally likely.
    """
    tall, wide = size
    areas = tall * wide * _between(numbers[:, :TRIES], *scale)
    shapes = np.exp(_between(numbers[:, TRIES:-2], math.log(ratio[0]), math.log(ratio[1])))
    widths, heights = np.rint(np.sqrt(areas * shapes)), np.rint(np.sqrt(areas / shapes))
    fits = (widths >= 1) & (widths <= wide) & (heights >= 1) & (heights <= tall)
    first = fits.argmax(1)[:, None]
    height, width = (np.take_along_axis(each, first, 1)[:, 0] for each in (heights, widths))
    top = np.floor(numbers[:, -2] * (tall - height + 1))
    left = np.floor(numbers[:, -1] * (wide - width + 1))
    whole = (each.astype(np.int64) for each in (top, left, height, width))
    return Boxes(*whole, fit=fits.any(1))


def middle_box(size: tuple[int, int], ratio: tuple[float, float]) -> tuple[int, int, int, int]:
    """Return top, left, height and width of the largest box in the middle within `ratio`."""
    tall, wide = size
    width = min(wide, round(tall * ratio[1])) if wide > tall * ratio[1] else wide
    height = min(tall, round(wide / ratio[0])) if wide < tall * ratio[0] else tall
    return (tall - height) // 2, (wide - width) // 2, height, width


def stretched(images: Tensor, boxes: Boxes) -> Tensor:
    """Cut each image to its box and stretch that to the image's size, bilinearly."""
    _, height, width, _ = images.shape
    down = _places(boxes.top, boxes.height, height)
    across = _places(boxes.left, boxes.width, width)
    shape = (len(images), height, width)
    grid = torch.stack((across[:, None, :].expand(shape), down[:, :, None].expand(shape)), 3)
    pixels = images.permute(0, 3, 1, 2).float()
    made = functional.grid_sample(pixels, grid.to(images.device), align_corners=False)
    return made.round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def inside(boxes: Boxes, size: tuple[int, int]) -> Tensor:
    """Return which pixels lie in each image's box, (B, H, W); none where it does not fit."""
    tall, wide = size
    rows, columns = np.arange(tall), np.arange(wide)
    down = _covers(boxes.top, boxes.height, rows) & boxes.fit[:, None]
    return torch.from_numpy(down[:, :, None] & _covers(boxes.left, boxes.width, columns)[:, None])


def _places(start: Whole, length: Whole, side: int) -> Tensor:
    """Return where each pixel of a side is taken from, (B, side), from -1 to 1 over the image.

    Nothing outside the box is looked at, as if it had been cut out before.
    """
    first, count = start[:, None].astype(np.float64), length[:, None]
    pixels = first + (np.arange(side) + 0.5) * count / side - 0.5
    pixels = np.clip(pixels, first, first + count - 1)
    return torch.from_numpy(((2 * pixels + 1) / side - 1).astype(np.float32))


def _covers(start: Whole, length: Whole, places: Whole) -> NDArray[np.bool_]:
    begins = start[:, None]
    return (places >= begins) & (places < begins + length[:, None])


def _between(numbers: NDArray[np.float64], low: float, high: float) -> NDArray[np.float64]:
    return low + numbers * (high - low)
