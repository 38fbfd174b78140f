"""Photographs are augmented at least 3 times as fast in batches as image by image with Pillow.

64 images of 32 x 32 become a network's normalised inputs on one thread, by four recipes: a mirror
and a random resized crop; a crop after 4 pixels of padding, a mirror and then RandAugment (2
operations of magnitude 9), or colour jitter (brightness, contrast, saturation), or erasing. Ours
is `Images.inputs`, which also draws what it does from the counter. The other side is told the
draws, changes each image with Pillow, makes it a tensor in [0, 1], normalises it (erases a box) and
stacks the batch. Both give the same numbers, for the resized crop to one level of 255. Rounds
interleave both sides; the figure is the ratio of the sums of the recipes' median times.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

from benchmarks._claim import Outcome
from benchmarks.augment import PADDING, cut
from ktbench.data.augmentations import shapes
from ktbench.data.augmentations.changes import JITTERS, NAMES
from ktbench.data.augmentations.draws import ERASED, JITTER, OPERATIONS, PART, Draws
from ktbench.networks.numeric import prepare
from ktbench.records import (
    Augmentation,
    ColourJitter,
    Erasing,
    NumericSpec,
    RandAugment,
    RandomResizedCrop,
)
from ktbench.tasks.image_classification import Images
from tests.support.photographs import ENHANCERS, operation, part, pictures

BAR = 3.0
ROUNDS = 40
COUNT, SIDE = 64, 32
INDICES = torch.arange(COUNT)
MEAN, STD = (torch.tensor(each) for each in ([125.3, 123.0, 113.9], [63.0, 62.1, 66.7]))
CROP, RANDOM, ERASING = RandomResizedCrop(), RandAugment(), Erasing()
COLOURS = ColourJitter(brightness=0.4, contrast=0.4, saturation=0.4)
RECIPES = {
    "random_resized_crop": Augmentation(flip=True, random_resized_crop=CROP),
    "rand_augment": Augmentation(crop_padding=PADDING, flip=True, rand_augment=RANDOM),
    "colour_jitter": Augmentation(crop_padding=PADDING, flip=True, colour_jitter=COLOURS),
    "erasing": Augmentation(crop_padding=PADDING, flip=True, erasing=ERASING),
}
LEVEL = float(1 / STD.min())
"""One level of 255 in the inputs."""
Change = Callable[[Image.Image], Image.Image]


def images_of(augment: Augmentation, pixels: NDArray[np.uint8]) -> Images:
    """Return training images as the task holds them."""
    padding = (0, 0, *(4 * [augment.crop_padding]))
    padded = functional.pad(torch.from_numpy(pixels), padding)
    return Images(padded, INDICES, (SIDE, SIDE), (MEAN, STD), augment, 0)


@dataclass(frozen=True)
class Told:
    """What the other side does to each image of a batch, drawn beforehand."""

    padding: int
    crops: list[tuple[int, int, bool]]
    changes: list[Change]
    boxes: list[tuple[slice, slice] | None]


def told(images: Images, name: str, view: int) -> Told:
    """Return what ours does to each image in a view."""
    rows, columns = images.windows(INDICES.numpy(), view)
    crops = [
        (int(r[0]), int(c.min()), bool(c[0] > c[-1])) for r, c in zip(rows, columns, strict=True)
    ]
    padding = images.augment.crop_padding
    draws, plain = Draws(0, view, INDICES.numpy()), [lambda image: image] * COUNT
    nothing: list[tuple[slice, slice] | None] = [None] * COUNT
    if name == "random_resized_crop":
        return Told(padding, crops, _parts(draws), nothing)
    if name == "rand_augment":
        numbers = draws.evenly(OPERATIONS, 2 * RANDOM.operations)
        return Told(padding, crops, [_operations(row) for row in numbers], nothing)
    if name == "colour_jitter":
        numbers = draws.evenly(JITTER, 2 * len(JITTERS))
        return Told(padding, crops, [_jitter(row) for row in numbers], nothing)
    return Told(padding, crops, list(plain), _boxes(draws))


def _parts(draws: Draws) -> list[Change]:
    numbers = draws.evenly(PART, shapes.BOX_DRAWS)
    boxes = shapes.draw_boxes(numbers, (SIDE, SIDE), CROP.scale, CROP.ratio)

    def change(top: int, left: int, height: int, width: int) -> Change:
        return lambda image: part(image, top, left, height, width)

    rows = zip(boxes.top, boxes.left, boxes.height, boxes.width, strict=True)
    return [change(*map(int, row)) for row in rows]


def _operations(row: NDArray[np.float64]) -> Change:
    chosen = [(NAMES[int(w * len(NAMES))], -1.0 if s < 0.5 else 1.0) for w, s in row.reshape(-1, 2)]

    def change(image: Image.Image) -> Image.Image:
        for name, sign in chosen:
            image = operation(name, image, sign, RANDOM.magnitude)
        return image

    return change


def _jitter(row: NDArray[np.float64]) -> Change:
    names = ("brightness", "contrast", "color")
    chosen = [(names[n], 0.6 + 0.8 * row[4 + n]) for n in np.argsort(row[:3], kind="stable")]

    def change(image: Image.Image) -> Image.Image:
        for name, factor in chosen:
            image = ENHANCERS[name](image).enhance(factor)
        return image

    return change


def _boxes(draws: Draws) -> list[tuple[slice, slice] | None]:
    numbers = draws.evenly(ERASED, shapes.BOX_DRAWS + 1)
    boxes = shapes.draw_boxes(numbers[:, 1:], (SIDE, SIDE), ERASING.scale, ERASING.ratio)
    wanted = boxes.fit & (numbers[:, 0] < ERASING.probability)
    rows = zip(wanted, boxes.top, boxes.left, boxes.height, boxes.width, strict=True)
    return [
        (slice(top, top + height), slice(left, left + width)) if erased else None
        for erased, top, left, height, width in rows
    ]


def one_by_one(pixels: NDArray[np.uint8], what: Told) -> Tensor:
    """Return the batch (B, C, H, W) from images (B, H, W, C), made one by one."""
    mean, std = (each.view(3, 1, 1) / 255 for each in (MEAN, STD))
    made = []
    for image, crop, change, box in zip(pixels, what.crops, what.changes, what.boxes, strict=True):
        changed = change(cut(Image.fromarray(image), crop, what.padding))
        tensor = torch.from_numpy(np.array(changed)).permute(2, 0, 1).contiguous().float().div(255)
        tensor.sub_(mean).div_(std)
        if box is not None:
            tensor[:, box[0], box[1]] = 0
        made.append(tensor)
    return torch.stack(made)


def run() -> Outcome:
    """Time both sides of each recipe on the same batches in turn."""
    prepare(NumericSpec())
    pixels = pictures(COUNT, SIDE, SIDE, 3)
    totals = [0.0, 0.0]
    for name, augment in RECIPES.items():
        images, times = images_of(augment, pixels), (list[float](), list[float]())
        for view in range(ROUNDS):
            what = told(images, name, view)
            start = time.perf_counter()
            ours = images.inputs(INDICES, view)
            middle = time.perf_counter()
            theirs = one_by_one(pixels, what)
            times[1].append(time.perf_counter() - middle)
            times[0].append(middle - start)
            apart = 1.01 * LEVEL if augment.random_resized_crop else 1e-4
            torch.testing.assert_close(ours.contiguous(), theirs, rtol=0, atol=apart)
        fast, slow = (statistics.median(each) for each in times)
        totals = [totals[0] + fast, totals[1] + slow]
        figures = f"ours {1e3 * fast:6.2f} ms  Pillow {1e3 * slow:6.2f} ms  {slow / fast:4.1f}x"
        print(f"{name:<20} {figures}")
    ratio = totals[1] / totals[0]
    return Outcome(f"{ratio:.1f}x", f">= {BAR:g}x", ratio >= BAR)
