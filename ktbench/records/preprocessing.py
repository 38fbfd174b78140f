"""Making of a network's inputs from pixels, where that is not as its data set has it."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ktbench.records.base import Record
from ktbench.records.printable import Number, Whole

LARGEST_IMAGE = 8192
"""Pixels per side: a larger image does not fit the machines that students are meant for."""
MOST_CHANNELS = 256
Interpolation = Literal["bilinear", "bicubic", "nearest"]
Means = Annotated[tuple[Number, ...], Field(min_length=1, max_length=MOST_CHANNELS)]
Deviations = Annotated[
    tuple[Annotated[Number, Field(gt=0)], ...], Field(min_length=1, max_length=MOST_CHANNELS)
]


class Preprocessing(Record):
    """Inputs that a network was trained on: values of its pixels, and the size of its images."""

    mean: Means | None = None
    """Mean that is subtracted from a pixel, per channel or one for all; with `std`, or neither:
    then values are normalised as the data set's own networks read them."""
    std: Deviations | None = None
    """Deviation by which the difference is divided, per channel or one for all."""
    range: Literal[1, 255] = 1
    """Value of the brightest pixel before mean and deviation: pixels are 0 to 1, or 0 to 255."""
    size: Annotated[Whole, Field(ge=4, le=LARGEST_IMAGE)] | None = None
    """Pixels a side; images of another size are resized. None leaves them as they are."""
    interpolation: Interpolation = "bilinear"
    """Interpolation of the resizing; smoothed where it makes images smaller, `nearest` excepted."""
    crop: Annotated[Number, Field(gt=0, le=1)] = 1.0
    """Share of a resized image's side that is kept, from its centre: 224 of 256 pixels are 0.875.
    Images that have the size already are neither resized nor cropped."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.mean is None) != (self.std is None):
            raise ValueError("mean and std belong together: give both or neither")
        if self.mean is None and self.size is None:
            raise ValueError("changes nothing: give mean and std, a size, or all of them")
        if self.size is None and self.crop != 1.0:
            raise ValueError("crop belongs to a size: give both")
        return self

    def channels_objection(self, channels: int) -> str | None:
        """Say which of mean and deviation do not fit images of so many channels, or None."""
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values is not None and len(values) not in (1, channels):
                have = f"{channels} channel{'' if channels == 1 else 's'}"
                return f"{name} has {len(values)} numbers, and the images have {have}"
        return None

    @property
    def words(self) -> str:
        """Description on one line: `(pixels 0 to 1 − 0.5) / 0.5, 224 × 224 bicubic, crop 0.875`."""
        parts = []
        if self.mean is not None and self.std is not None:
            mean, std = (_listed(values) for values in (self.mean, self.std))
            pixels = f"pixels 0 to {self.range}"
            plain = (mean, std) == ("0", "1")
            parts.append(pixels if plain else f"({pixels} − {mean}) / {std}")
        if self.size is not None:
            crop = f", crop {self.crop:g}" if self.crop != 1 else ""
            parts.append(f"{self.size} × {self.size} {self.interpolation}{crop}")
        return ", ".join(parts)


def _listed(values: tuple[float, ...]) -> str:
    text = ", ".join(f"{value:g}" for value in values)
    return text if len(values) == 1 else f"[{text}]"
