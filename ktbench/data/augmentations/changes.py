"""What a matrix's `augment` does to a batch of images, after their crops and mirrors."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ktbench.data.augmentations import colours, shapes
from ktbench.data.augmentations.draws import ERASED, JITTER, OPERATIONS, PART, Draws
from ktbench.records import Augmentation

Change = Callable[[Tensor, Tensor], Tensor]
"""Return images (B, H, W, C), uint8, changed by amounts (B,), of maps (B, 6)."""
COLOURS: dict[str, Change] = {
    "autocontrast": colours.autocontrast,
    "equalize": colours.equalize,
    "solarize": colours.solarize,
    "color": colours.saturation,
    "posterize": colours.posterize,
    "contrast": colours.contrast,
    "brightness": colours.brightness,
    "sharpness": colours.sharpness,
}
SHAPES = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
NAMES = ("identity", *COLOURS, *SHAPES)
"""RandAugment's operations, each equally likely."""
JITTERS: dict[str, Change] = {
    "brightness": colours.brightness,
    "contrast": colours.contrast,
    "saturation": colours.saturation,
    "hue": colours.hue,
}


@dataclass(frozen=True)
class Changes:
    """The changes that `augment` asks for beside crops with padding and mirrors."""

    augment: Augmentation
    seed: int

    def pixels(self, images: Tensor, indices: Tensor, view: int) -> Tensor:
        """Return images (B, H, W, C), uint8, after the changes of shapes and colours.

        They are the caller's own: they may be written into.
        """
        draws = Draws(self.seed, view, indices.cpu().numpy())
        for change in (self._part, self._operations, self._jitter):
            images = change(images, draws)
        return images

    def inputs(self, inputs: Tensor, indices: Tensor, view: int) -> Tensor:
        """Set a box of some inputs (B, C, H, W) to 0, the mean colour, in place."""
        wanted = self.augment.erasing
        if wanted is None:
            return inputs
        numbers = Draws(self.seed, view, indices.cpu().numpy()).evenly(ERASED, shapes.BOX_DRAWS + 1)
        size = (inputs.shape[2], inputs.shape[3])
        boxes = shapes.draw_boxes(numbers[:, 1:], size, wanted.scale, wanted.ratio)
        boxes = replace(boxes, fit=boxes.fit & (numbers[:, 0] < wanted.probability))
        hidden = shapes.inside(boxes, size)[:, None]
        return inputs.masked_fill_(hidden.to(inputs.device), 0.0)

    # ------------------------------------------------------------ each of them

    def _part(self, images: Tensor, draws: Draws) -> Tensor:
        wanted = self.augment.random_resized_crop
        if wanted is None:
            return images
        size = (images.shape[1], images.shape[2])
        numbers = draws.evenly(PART, shapes.BOX_DRAWS)
        boxes = shapes.draw_boxes(numbers, size, wanted.scale, wanted.ratio)
        drawn = (boxes.top, boxes.left, boxes.height, boxes.width)
        middle = shapes.middle_box(size, wanted.ratio)
        sides = [np.where(boxes.fit, *pair) for pair in zip(drawn, middle, strict=True)]
        return shapes.stretched(images, shapes.Boxes(*sides, fit=boxes.fit))

    def _operations(self, images: Tensor, draws: Draws) -> Tensor:
        wanted = self.augment.rand_augment
        if wanted is None:
            return images
        numbers = draws.evenly(OPERATIONS, 2 * wanted.operations)
        for turn in range(wanted.operations):
            chosen = np.floor(numbers[:, 2 * turn] * len(NAMES)).astype(np.int64)
            signs = np.where(numbers[:, 2 * turn + 1] < 0.5, -1.0, 1.0)
            images = operated(images, chosen, signs, wanted.magnitude)
        return images

    def _jitter(self, images: Tensor, draws: Draws) -> Tensor:
        wanted = self.augment.colour_jitter
        if wanted is None:
            return images
        numbers = draws.evenly(JITTER, 2 * len(JITTERS))
        order = numbers[:, : len(JITTERS)].argsort(1, kind="stable")
        amounts = {}
        for number, name in enumerate(JITTERS, start=len(JITTERS)):
            most = getattr(wanted, name)
            low, high = (-most, most) if name == "hue" else (max(0.0, 1 - most), 1 + most)
            if most:
                amounts[name] = low + numbers[:, number] * (high - low)
        for turn in range(len(JITTERS)):
            for number, (name, change) in enumerate(JITTERS.items()):
                if name in amounts:
                    which = order[:, turn] == number
                    images = _some(images, which, change, amounts[name][which])
        return images


def operated(
    images: Tensor, chosen: NDArray[np.int64], signs: NDArray[np.float64], magnitude: float
) -> Tensor:
    """Do to each image the operation of RandAugment that is `chosen` (B,), a place in `NAMES`.

    `signs` (B,) are -1 or 1: the way in which those work that have two.
    """
    for number, name in enumerate(NAMES):
        if name in COLOURS:
            which = chosen == number
            amounts = amounts_of(name, signs[which], magnitude)
            images = _some(images, which, COLOURS[name], amounts)
    size, first = (images.shape[1], images.shape[2]), NAMES.index(SHAPES[0])
    maps = np.array([[map_of(n, sign, magnitude, size) for sign in (-1.0, 1.0)] for n in SHAPES])
    moves = chosen >= first
    of = maps[chosen[moves] - first, (signs[moves] > 0).astype(np.int64)]  # (moved, 6)
    return _some(images, moves, shapes.mapped, of)


def amounts_of(name: str, signs: NDArray[np.float64], magnitude: float) -> NDArray[np.float64]:
    """Return the amounts (B,) of an operation on colours: the ranges of AutoAugment, table 6."""
    share = magnitude / 10
    if name == "solarize":
        return np.full_like(signs, 256 * (1 - share))
    if name == "posterize":
        return np.full_like(signs, 8 - round(4 * share))
    return 1 + 0.9 * share * signs


def map_of(name: str, sign: float, magnitude: float, size: tuple[int, int]) -> shapes.Map:
    """Return the map of an operation on shapes: the ranges of AutoAugment, table 6."""
    amount, (height, width) = sign * magnitude / 10, size
    if name == "rotate":
        return shapes.turn(30 * amount, height, width)
    if name == "shear_x":
        return shapes.shear_x(0.3 * amount)
    if name == "shear_y":
        return shapes.shear_y(0.3 * amount)
    # 150 of the 331 pixels of AutoAugment's images, in whole pixels.
    across = name == "translate_x"
    pixels = math.copysign(round(150 / 331 * (width if across else height) * abs(amount)), amount)
    return shapes.shift(pixels, 0.0) if across else shapes.shift(0.0, pixels)


def _some(
    images: Tensor, which: NDArray[np.bool_], change: Change, amounts: NDArray[np.float64]
) -> Tensor:
    """Change those images that are meant, in place, by amounts of theirs."""
    if which.any():
        places = torch.from_numpy(np.flatnonzero(which)).to(images.device)
        of = torch.from_numpy(amounts).to(images.device)
        images.index_copy_(0, places, change(images[places], of))
    return images
