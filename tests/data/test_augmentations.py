"""Augmentations equal their definitions, image by image, whatever the batch and the process."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from ktbench.data import Stream
from ktbench.data.augmentations import Changes, colours, shapes
from ktbench.data.augmentations.changes import JITTERS, NAMES, operated
from ktbench.data.augmentations.draws import ERASED, JITTER, OPERATIONS, PART, Draws
from ktbench.records import (
    Augmentation,
    ColourJitter,
    DataSpec,
    Erasing,
    RandAugment,
    RandomResizedCrop,
)
from ktbench.tasks.image_classification import Images
from tests.support.photographs import (
    ENHANCERS,
    as_image,
    as_pictures,
    as_pixels,
    as_planes,
    operation,
    part,
    pictures,
    turned,
)
from tests.support.training import digits

KINDS = [(32, 32, 3), (20, 33, 3), (31, 17, 1)]
"""Heights, widths and channels."""
ALL = Augmentation(
    crop_padding=1,
    flip=True,
    random_resized_crop=RandomResizedCrop(),
    rand_augment=RandAugment(),
    colour_jitter=ColourJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1),
    erasing=Erasing(),
)
MANY = np.arange(20_000)


def _apart(ours: Tensor, theirs: list[NDArray[np.uint8]]) -> int:
    """Return the largest difference between two batches, in levels of 255."""
    return int(np.abs(ours.numpy().astype(int) - np.stack(theirs)).max())


def _images(augment: Augmentation, count: int = 24, seed: int = 0) -> Images:
    """Return a small training set of colour pictures."""
    pixels = torch.from_numpy(pictures(count, 16, 16, 3))
    padding = (0, 0, *(4 * [augment.crop_padding]))
    padded = torch.nn.functional.pad(pixels, padding)
    moments = torch.tensor([120.0, 110.0, 100.0]), torch.tensor([60.0, 61.0, 62.0])
    return Images(padded, torch.arange(count), (16, 16), moments, augment, seed)


# ---------------------------------------------------------------- equal to their definitions


@pytest.mark.slow
@pytest.mark.parametrize("magnitude", [0.0, 3.0, 9.0, 10.0])
def test_each_operation_of_randaugment_gives_pillows_pixels(magnitude: float) -> None:
    signs = np.array([-1.0, 1.0] * 4)
    for height, width, channels in KINDS:
        pixels = pictures(8, height, width, channels)
        for number, name in enumerate(NAMES):
            ours = operated(as_planes(pixels), np.full(8, number), signs, magnitude)
            theirs = [
                as_pixels(operation(name, as_image(image), sign, magnitude))
                for image, sign in zip(pixels, signs, strict=True)
            ]
            assert _apart(as_pictures(ours), theirs) == 0, (name, height, width, channels)


def test_magnitude_nothing_leaves_images_but_for_the_two_operations_without_one() -> None:
    pixels = as_planes(pictures(8, 16, 16, 3))
    for number, name in enumerate(NAMES):
        made = operated(pixels.clone(), np.full(8, number), np.ones(8), 0.0)
        assert torch.equal(made, pixels) != (name in ("autocontrast", "equalize"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_random_part_is_pillows_crop_and_stretch_to_one_level(kind: tuple[int, int, int]) -> None:
    height, width, channels = kind
    pixels = pictures(24, height, width, channels)
    numbers = Draws(0, 0, np.arange(24)).evenly(PART, shapes.BOX_DRAWS)
    boxes = shapes.draw_boxes(numbers, (height, width), (0.08, 1.0), (3 / 4, 4 / 3))
    theirs = [
        as_pixels(part(as_image(image), *map(int, box)))
        for image, *box in zip(
            pixels, boxes.top, boxes.left, boxes.height, boxes.width, strict=True
        )
    ]
    assert _apart(as_pictures(shapes.stretched(as_planes(pixels), boxes)), theirs) <= 1


def test_hues_turn_as_pythons_formulas_say_to_one_level() -> None:
    pixels = pictures(8, 9, 10, 3)
    turns = np.linspace(-0.5, 0.5, 8)
    theirs = [turned(image, turn) for image, turn in zip(pixels, turns, strict=True)]
    planes = as_planes(pixels)
    assert _apart(as_pictures(colours.hue(planes, torch.from_numpy(turns))), theirs) <= 1
    assert torch.equal(colours.hue(planes, torch.zeros(8)), planes)


def test_colours_jitter_in_the_drawn_order_by_the_drawn_factors() -> None:
    wanted = ColourJitter(brightness=0.4, contrast=0.8, saturation=2.0)
    pixels, indices = pictures(24, 16, 16, 3), torch.arange(24)
    ours = Changes(Augmentation(colour_jitter=wanted), 3).pixels(torch.tensor(pixels), indices, 5)
    numbers = Draws(3, 5, indices.numpy()).evenly(JITTER, 8)
    named = {"brightness": "brightness", "contrast": "contrast", "saturation": "color"}
    theirs = []
    for pixel, row in zip(pixels, numbers, strict=True):
        image = as_image(pixel)
        for place in np.argsort(row[:4]):
            name = list(JITTERS)[place]
            if name != "hue":
                most = getattr(wanted, name)
                low, high = max(0.0, 1 - most), 1 + most
                factor = low + row[4 + place] * (high - low)
                image = ENHANCERS[named[name]](image).enhance(factor)
        theirs.append(as_pixels(image))
    assert _apart(ours, theirs) == 0


def test_randaugment_does_the_drawn_operations_one_after_the_other() -> None:
    pixels, indices = pictures(40, 16, 16, 3), torch.arange(100, 140)
    changes = Changes(Augmentation(rand_augment=RandAugment(operations=3, magnitude=7)), 1)
    ours = changes.pixels(torch.tensor(pixels), indices, 2)
    theirs = []
    numbers = Draws(1, 2, indices.numpy()).evenly(OPERATIONS, 6)
    for pixel, row in zip(pixels, numbers, strict=True):
        image = as_image(pixel)
        for which, side in row.reshape(3, 2):
            image = operation(NAMES[int(which * 14)], image, -1.0 if side < 0.5 else 1.0, 7.0)
        theirs.append(as_pixels(image))
    assert _apart(ours, theirs) == 0


def test_an_erased_box_has_the_mean_colour_and_nothing_else_changes() -> None:
    augment = Augmentation(erasing=Erasing(probability=0.5, scale=(0.1, 0.2)))
    indices = torch.arange(200)
    before = torch.ones(200, 3, 16, 16)
    after = Changes(augment, 0).inputs(before.clone(), indices, 0)
    changed = 0
    for image in after:
        rows, columns = torch.where((image == 0).all(0))
        assert set(image.unique().tolist()) <= {0.0, 1.0}
        if len(rows):
            changed += 1
            area = (int(rows.max() - rows.min()) + 1) * (int(columns.max() - columns.min()) + 1)
            assert len(rows) == area and int((image == 0).sum()) == 3 * area  # one whole box
            assert 0.07 * 256 <= area <= 0.23 * 256
    assert 75 <= changed <= 125


def test_a_box_that_never_fits_is_the_middle_of_the_image_or_nothing_is_erased() -> None:
    numbers = Draws(0, 0, MANY[:50]).evenly(PART, shapes.BOX_DRAWS)
    never = shapes.draw_boxes(numbers, (8, 64), (1.0, 1.0), (1.0, 1.0))
    assert not never.fit.any() and bool((shapes.outside(never, (8, 64)) == 1).all())
    assert shapes.middle_box((8, 64), (0.75, 1.5)) == (0, 26, 8, 12)
    assert shapes.middle_box((64, 8), (0.5, 1.0)) == (24, 0, 16, 8)
    assert shapes.middle_box((8, 8), (0.5, 1.0)) == (0, 0, 8, 8)


# ---------------------------------------------------------------- draws


def _even(numbers: NDArray[np.float64], parts: int = 10) -> bool:
    """Return whether numbers in [0, 1) are even, by chi-squared over so many parts."""
    counts = np.bincount((numbers * parts).astype(int), minlength=parts)
    expected = len(numbers) / parts
    return float(((counts - expected) ** 2 / expected).sum()) < 30.0  # 9 degrees: p = 0.0004


@pytest.mark.parametrize("purpose", [PART, OPERATIONS, JITTER, ERASED])
def test_draws_are_even_and_do_not_depend_on_each_other(purpose: int) -> None:
    numbers = Draws(7, 3, MANY).evenly(purpose, 4)
    others = Draws(7, 4, MANY).evenly(purpose, 4), Draws(8, 3, MANY).evenly(purpose, 4)
    assert all(_even(column) for column in numbers.T)
    pairs = [numbers.T[0], numbers.T[1], numbers[1:, 0], *(other[:, 0] for other in others)]
    for other in pairs[1:]:
        assert abs(np.corrcoef(pairs[0][: len(other)], other)[0, 1]) < 0.03


def test_boxes_have_even_areas_even_log_ratios_and_lie_anywhere() -> None:
    numbers = Draws(1, 0, MANY).evenly(PART, shapes.BOX_DRAWS)
    boxes = shapes.draw_boxes(numbers, (1000, 1000), (0.2, 0.5), (0.5, 2.0))
    areas = boxes.height * boxes.width / 1e6
    ratios = np.log2(boxes.width / boxes.height)
    assert boxes.fit.all()
    assert _even(np.clip((areas - 0.2) / 0.3, 0, 0.9999))
    assert _even(np.clip((ratios + 1) / 2, 0, 0.9999))
    assert _even(boxes.top / (1001 - boxes.height)) and _even(boxes.left / (1001 - boxes.width))


# ---------------------------------------------------------------- the same in any batch


def test_a_sample_is_augmented_alike_in_every_batch() -> None:
    images = _images(ALL)
    whole = images.inputs(torch.arange(24), 3)
    for chosen in (torch.tensor([5]), torch.tensor([9, 2, 5, 23]), torch.arange(23, -1, -1)):
        assert torch.equal(images.inputs(chosen, 3), whole[chosen])
    assert not torch.equal(images.inputs(torch.arange(24), 4), whole)
    assert not torch.equal(_images(ALL, seed=1).inputs(torch.arange(24), 3), whole)


@pytest.mark.slow
def test_every_change_is_made_where_the_images_are() -> None:
    # A device without values: what asks for one raises, and so does what meets another device.
    images = torch.tensor(pictures(24, 16, 16, 3), device="meta")
    made = Changes(ALL, 0).pixels(images, torch.arange(24), 0)
    inputs = Changes(ALL, 0).inputs(made.permute(0, 3, 1, 2).float(), torch.arange(24), 0)
    assert made.device == inputs.device == images.device
    assert inputs.shape == (24, 3, 16, 16)


def test_the_training_set_itself_is_never_written_into() -> None:
    for augment in (ALL, Augmentation(rand_augment=RandAugment())):
        images = _images(augment)
        before = images.padded.clone()
        images.inputs(torch.arange(24), 0)
        assert torch.equal(images.padded, before)


PROGRAM = """
import sys
import torch
from tests.data.test_augmentations import ALL, _images
made = _images(ALL).inputs(torch.tensor([int(each) for each in sys.argv[1:]]), 6)
sys.stdout.buffer.write(made.contiguous().numpy().tobytes())
"""


@pytest.mark.slow
def test_another_process_makes_the_same_bits() -> None:
    command = [sys.executable, "-c", PROGRAM, "7", "0", "20"]
    made = subprocess.run(command, check=True, capture_output=True).stdout
    ours = _images(ALL).inputs(torch.tensor([7, 0, 20]), 6)
    assert made == ours.contiguous().numpy().tobytes()


def test_crop_and_flip_keep_the_bits_that_they_had() -> None:
    plain = Augmentation(crop_padding=1, flip=True)
    images, indices = _images(plain), torch.arange(24)
    rows, columns = images.windows(indices.numpy(), 2)
    expected = images.padded[indices[:, None, None], rows[:, :, None], columns[:, None, :]]
    assert torch.equal(images.augmented(indices, 2), expected)
    assert plain.canonical == '{"crop_padding":1,"flip":true}'


def test_validation_and_test_images_are_never_augmented() -> None:
    plain = digits(DataSpec(source="digits", train_size=96).model_dump_json())
    spec = DataSpec(source="digits", train_size=96, augment=ALL)
    augmented = digits(spec.model_dump_json())
    for split in ("train", "validation", "test"):
        chosen = slice(0, 20)
        ours, theirs = augmented.some(split, chosen), plain.some(split, chosen)
        assert isinstance(ours, Tensor) and isinstance(theirs, Tensor)
        assert torch.equal(ours, theirs)
    shown = [Stream(data, 0, 32).inputs(torch.arange(20), 0) for data in (augmented, plain)]
    assert not torch.equal(*shown)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "augment",
    [
        Augmentation(random_resized_crop=RandomResizedCrop()),
        Augmentation(rand_augment=RandAugment()),
        Augmentation(colour_jitter=ColourJitter(contrast=0.9)),
        Augmentation(erasing=Erasing()),
    ],
    ids=lambda augment: next(iter(augment.model_dump().keys() - {"crop_padding", "flip"})),
)
def test_each_augmentation_alone_gives_every_epoch_a_view_of_its_own(augment: Augmentation) -> None:
    spec = DataSpec(source="digits", train_size=96, augment=augment)
    stream = Stream(digits(spec.model_dump_json()), 0, 32)
    assert stream.augmentation == augment.canonical and stream.view(3) == 3
    first, second = (stream.inputs(torch.arange(32), epoch) for epoch in (0, 1))
    assert not torch.equal(first, second)  # type: ignore[arg-type]
