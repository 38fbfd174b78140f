"""Changes of shapes for a batch of images (B, C, H, W), uint8: affine maps, and parts of images."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

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


def fixed(map_: Map) -> tuple[int, ...]:
    """Return a map of the middles of pixels in 65536ths, as Pillow has it."""
    a, b, c, d, e, f = map_
    real = (a, b, c + (a + b) / 2, d, e, f + (d + e) / 2)
    return tuple(math.floor(65536 * part + 0.5) for part in real)


def mapped(images: Tensor, maps: Tensor) -> Tensor:
    """Map each image by its row of `maps` (B, 6) to the nearest pixel; outside is grey.

    Maps are `fixed`, int32: places are whole numbers, so that every machine chooses the same
    pixels.
    """
    count, channels, height, width = images.shape
    a, b, c, d, e, f = maps[:, :, None, None].unbind(1)  # each (B, 1, 1)
    x = torch.arange(width, dtype=torch.int32, device=images.device)
    y = torch.arange(height, dtype=torch.int32, device=images.device)[:, None]
    # A frame of grey stands for everything outside.
    framed = images.new_full((count, channels, height + 2, width + 2), FILL)
    framed[:, :, 1:-1, 1:-1] = images
    columns = (a * x + (b * y + c)).bitwise_right_shift_(16).clamp_(-1, width)
    rows = (d * x + (e * y + f)).bitwise_right_shift_(16).clamp_(-1, height)
    places = rows.add_(1).mul_(width + 2).add_(columns).add_(1).long().flatten(1)[:, None]
    chosen = framed.flatten(2).gather(2, places.expand(-1, channels, -1))
    return chosen.view(images.shape)


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
    whole = [np.asarray(each, dtype=np.int64) for each in (top, left, height, width)]
    return Boxes(whole[0], whole[1], whole[2], whole[3], np.asarray(fits.any(1)))


def middle_box(size: tuple[int, int], ratio: tuple[float, float]) -> tuple[int, int, int, int]:
    """Return top, left, height and width of the largest box in the middle within `ratio`."""
    tall, wide = size
    width = min(wide, round(tall * ratio[1])) if wide > tall * ratio[1] else wide
    height = min(tall, round(wide / ratio[0])) if wide < tall * ratio[0] else tall
    return (tall - height) // 2, (wide - width) // 2, height, width


def stretched(images: Tensor, boxes: Boxes) -> Tensor:
    """Cut each image to its box and stretch that to the image's size, bilinearly.

    First across and then down, each rounded to whole numbers, as Pillow does.
    """
    _, _, height, width = images.shape
    turned = images.transpose(2, 3).contiguous()  # so that each line lies together
    across = _lines(turned, *_places(boxes.left, boxes.width, width))
    return _lines(across.transpose(2, 3).contiguous(), *_places(boxes.top, boxes.height, height))


def _lines(images: Tensor, first: Tensor, weights: Tensor) -> Tensor:
    """Return the means of each image's lines `first` (B, L) and the next ones, by their weights."""
    count, channels, length, width = images.shape
    start = torch.arange(count * channels, device=images.device).view(count, channels, 1) * length
    lines = images.view(-1, width)
    upper, lower = (
        lines.index_select(0, (start + each[:, None]).flatten()).float().view(images.shape)
        for each in (first.to(images.device), (first + 1).clamp_(max=length - 1).to(images.device))
    )
    moved = lower.sub_(upper).mul_(weights.to(images.device)[:, None, :, None]).add_(upper)
    return moved.add_(0.5).to(torch.int16).to(torch.uint8)


def outside(boxes: Boxes, size: tuple[int, int]) -> Tensor:
    """Return 1 outside each image's box and 0 inside, (B, 1, H, W); 1 where none fits."""
    tall, wide = size
    down = _covers(boxes.top, boxes.height, np.arange(tall)) & boxes.fit[:, None]
    across = _covers(boxes.left, boxes.width, np.arange(wide))
    sides = (torch.from_numpy(each.astype(np.float32)) for each in (down, across))
    rows, columns = sides
    return 1 - rows[:, None, :, None] * columns[:, None, None, :]


def _places(start: Whole, length: Whole, side: int) -> tuple[Tensor, Tensor]:
    """Return the first of the two lines that each line of a side is between, and the other's share.

    Both (B, side). Nothing outside the box is looked at, as if it had been cut out before.
    """
    first, count = start[:, None].astype(np.float64), length[:, None]
    places = first + (np.arange(side) + 0.5) * count / side - 0.5
    places = np.clip(places, first, first + count - 1)
    lines = np.floor(places)
    weights = (places - lines).astype(np.float32)
    return torch.from_numpy(lines.astype(np.int64)), torch.from_numpy(weights)


def _covers(start: Whole, length: Whole, places: Whole) -> NDArray[np.bool_]:
    begins = start[:, None]
    return (places >= begins) & (places < begins + length[:, None])


def _between(numbers: NDArray[np.float64], low: float, high: float) -> NDArray[np.float64]:
    return low + numbers * (high - low)
