"""Random changes to training images, as a matrix asks for them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from ktbench.records.base import Record, without_unset
from ktbench.records.preprocessing import LARGEST_IMAGE
from ktbench.records.printable import Flag, Number, Whole

MOST_OPERATIONS = 16

Share = Annotated[Number, Field(ge=0, le=1)]
Shares = tuple[Annotated[Number, Field(gt=0, le=1)], Annotated[Number, Field(gt=0, le=1)]]
Ratio = Annotated[Number, Field(ge=0.01, le=100)]
Strength = Annotated[Number, Field(ge=0, le=10)]


class Box(Record):
    """A box drawn by its area and its shape."""

    scale: Shares
    """Least and most area, as a share of the image's."""
    ratio: tuple[Ratio, Ratio]
    """Least and most width divided by height; its logarithm is drawn evenly."""

    @model_validator(mode="after")
    def _ordered(self) -> Box:
        for name in ("scale", "ratio"):
            least, most = getattr(self, name)
            if least > most:
                raise ValueError(f"{name} must have the smaller number first")
        return self


class RandomResizedCrop(Box):
    """A part of the image, stretched to the whole image's size (Szegedy et al., CVPR 2015)."""

    scale: Shares = (0.08, 1.0)
    """Least and most area of the part, as a share of the image's."""
    ratio: tuple[Ratio, Ratio] = (3 / 4, 4 / 3)
    """Least and most width divided by height of the part; its logarithm is drawn evenly."""


class ColourJitter(Record):
    """Colours changed by drawn strengths, in a drawn order."""

    brightness: Strength = 0.0
    """The factor is drawn from 1 - brightness (at least 0) to 1 + brightness."""
    contrast: Strength = 0.0
    """Likewise, of the distance from the image's mean grey."""
    saturation: Strength = 0.0
    """Likewise, of the distance from each pixel's own grey."""
    hue: Annotated[Number, Field(ge=0, le=0.5)] = 0.0
    """Most turns of the colour wheel by which hues are moved, either way."""


class RandAugment(Record):
    """Operations drawn evenly from fourteen (Cubuk et al., NeurIPS 2020)."""

    operations: Annotated[Whole, Field(ge=1, le=MOST_OPERATIONS)] = 2
    """Operations per image, one after the other."""
    magnitude: Annotated[Number, Field(ge=0, le=10)] = 9.0
    """Strength of each: 10 is the end of its range in AutoAugment (Cubuk et al., CVPR 2019, table
    6), 0 changes nothing."""


class Erasing(Box):
    """A box of the image set to the training images' mean colour (Zhong et al., AAAI 2020)."""

    probability: Share = 0.5
    """Probability that an image loses a box."""
    scale: Shares = (0.02, 0.33)
    """Least and most area of the box, as a share of the image's."""
    ratio: tuple[Ratio, Ratio] = (0.3, 3.3)
    """Least and most width divided by height of the box; its logarithm is drawn evenly."""


class Augmentation(Record):
    """Random changes to a training image, drawn per (seed, epoch, sample), in this order."""

    crop_padding: Annotated[Whole, Field(ge=0, le=LARGEST_IMAGE)] = 0
    """Pixels of zero padding before a random crop back to the image's size, which is larger."""
    flip: Flag = False
    """Mirror left and right with probability one half."""
    random_resized_crop: RandomResizedCrop | None = None
    """A random part of the image, stretched to its size; `{}` takes the usual parts."""
    rand_augment: RandAugment | None = None
    """Random operations on shapes and colours; `{}` takes two of magnitude 9."""
    colour_jitter: ColourJitter | None = None
    """Random brightness, contrast, saturation and hue."""
    erasing: Erasing | None = None
    """A random box is set to the mean colour; `{}` does so to every second image."""

    @model_serializer(mode="wrap")
    def _as_before(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what is not asked for, as records did before there was such a thing."""
        later = ("random_resized_crop", "rand_augment", "colour_jitter", "erasing")
        return without_unset(plain(self), *later)
