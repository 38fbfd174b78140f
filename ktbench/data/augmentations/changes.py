"""Changes that a matrix's `augment` makes to a batch, after its crops and mirrors."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ktbench.data.augmentations import colours, shapes
from ktbench.data.augmentations.draws import ERASED, JITTER, OPERATIONS, PART, Draws
from ktbench.records import Augmentation

Whole = NDArray[np.int64]
Change = Callable[[Tensor, Tensor], Tensor]
"""Return images (B, C, H, W), uint8, changed by amounts (B,)."""
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
        """Return images (B, H, W, C), uint8, after the changes of shapes and colours."""
        augment = self.augment
        if augment == Augmentation(
            crop_padding=augment.crop_padding, flip=augment.flip, erasing=augment.erasing
        ):
            return images
        draws = Draws(self.seed, view, indices.cpu().numpy())
        planes = images.permute(0, 3, 1, 2).contiguous()
        with torch.inference_mode():  # each of the many small calls is then quicker
            for change in (self._part, self._operations, self._jitter):
                planes = change(planes, draws)
        return planes.permute(0, 2, 3, 1).contiguous()

    def inputs(self, inputs: Tensor, indices: Tensor, view: int) -> Tensor:
        """Set a box of some inputs (B, C, H, W) to 0, the mean colour, in place."""
        wanted = self.augment.erasing
        if wanted is None:
            return inputs
        numbers = Draws(self.seed, view, indices.cpu().numpy()).evenly(ERASED, shapes.BOX_DRAWS + 1)
        size = (inputs.shape[2], inputs.shape[3])
        boxes = shapes.draw_boxes(numbers[:, 1:], size, wanted.scale, wanted.ratio)
        boxes = replace(boxes, fit=boxes.fit & (numbers[:, 0] < wanted.probability))
        return inputs.mul_(shapes.outside(boxes, size).to(inputs.device))

    # ------------------------------------------------------------ each of them

    def _part(self, images: Tensor, draws: Draws) -> Tensor:
        wanted = self.augment.random_resized_crop
        if wanted is None:
            return images
        size = (images.shape[2], images.shape[3])
        numbers = draws.evenly(PART, shapes.BOX_DRAWS)
        boxes = shapes.draw_boxes(numbers, size, wanted.scale, wanted.ratio)
        drawn = (boxes.top, boxes.left, boxes.height, boxes.width)
        middle = shapes.middle_box(size, wanted.ratio)
        top, left, height, width = (
            np.where(boxes.fit, *pair) for pair in zip(drawn, middle, strict=True)
        )
        return shapes.stretched(images, shapes.Boxes(top, left, height, width, boxes.fit))

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
        used = [number for number, name in enumerate(JITTERS) if getattr(wanted, name)]
        names = [list(JITTERS)[number] for number in used]
        order = numbers[:, used].argsort(1, kind="stable")

        def change(kind: int, some: Tensor, places: Whole) -> Tensor:
            name, most = names[kind], getattr(wanted, names[kind])
            low, high = (-most, most) if name == "hue" else (max(0.0, 1 - most), 1 + most)
            amounts = low + numbers[places, len(JITTERS) + used[kind]] * (high - low)
            return JITTERS[name](some, torch.from_numpy(amounts).to(some.device))

        for turn in range(len(used)):
            images = _by_kind(images, order[:, turn], change)
        return images


def operated(images: Tensor, chosen: Whole, signs: NDArray[np.float64], magnitude: float) -> Tensor:
    """Do to each image the operation of RandAugment that is `chosen` (B,), a place in `NAMES`.

    Images are (B, C, H, W), uint8. `signs` (B,) are -1 or 1: the way in which those work that have
    two.
    """
    maps = _fixed_maps(magnitude, (images.shape[2], images.shape[3]))
    first = NAMES.index(SHAPES[0])

    def change(kind: int, some: Tensor, places: Whole) -> Tensor | None:
        if kind == 0:
            return None
        if kind < first:
            name = NAMES[kind]
            amounts = amounts_of(name, signs[places], magnitude)
            return COLOURS[name](some, torch.from_numpy(amounts).to(some.device))
        of = maps[chosen[places] - first, (signs[places] > 0).astype(np.int64)]  # (some, 6)
        return shapes.mapped(some, torch.from_numpy(of).to(some.device))

    return _by_kind(images, np.minimum(chosen, first), change)


@lru_cache
def _fixed_maps(magnitude: float, size: tuple[int, int]) -> NDArray[np.int32]:
    """Return the maps of all operations on shapes in both ways, (5, 2, 6)."""
    maps = [
        [shapes.fixed(map_of(name, sign, magnitude, size)) for sign in (-1.0, 1.0)]
        for name in SHAPES
    ]
    return np.array(maps, dtype=np.int32)


def _by_kind(
    images: Tensor, kinds: Whole, change: Callable[[int, Tensor, Whole], Tensor | None]
) -> Tensor:
    """Change the images of each kind together, which lie together for it.

    `change` is given the kind, its images and their places, and returns None for no change.
    """
    order = np.argsort(kinds, kind="stable")
    sorted_images = images.index_select(0, torch.from_numpy(order).to(images.device))
    found, starts = np.unique(kinds[order], return_index=True)
    for kind, start, end in zip(found, starts, [*starts[1:], len(order)], strict=True):
        some = sorted_images[start:end]
        changed = change(int(kind), some, order[start:end])
        if changed is not None:
            some.copy_(changed)
    back = np.argsort(order, kind="stable")
    return sorted_images.index_select(0, torch.from_numpy(back).to(images.device))


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
