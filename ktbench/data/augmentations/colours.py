"""Changes of colours for a batch of images (B, C, H, W), uint8, each image with its own amount.

They are those of Pillow's `ImageEnhance` and `ImageOps`, to the bit; only the hue is computed in
real numbers, where Pillow rounds hues to 256 steps.
"""

from __future__ import annotations

import torch
from torch import Tensor

LUMA = (19595.0, 38470.0, 7471.0)
"""Parts in 65536 of red, green and blue in a grey (ITU-R BT.601)."""


def brightness(images: Tensor, factors: Tensor) -> Tensor:
    """Scale the distance from black by factors (B,)."""
    return _whole(images.float().mul_(_each(factors)))


def contrast(images: Tensor, factors: Tensor) -> Tensor:
    """Scale the distance from the image's mean grey by factors (B,)."""
    greys = _grey(images)
    means = greys.sum(dim=(1, 2, 3), dtype=torch.float64) / greys[0].numel()
    return _blended(_each(means + 0.5).floor(), images, factors)


def saturation(images: Tensor, factors: Tensor) -> Tensor:
    """Scale the distance from each pixel's own grey by factors (B,)."""
    return images if images.shape[1] == 1 else _blended(_grey(images), images, factors)


def sharpness(images: Tensor, factors: Tensor) -> Tensor:
    """Scale the distance from the smoothed image by factors (B,); borders are not smoothed.

    Of nine pixels, each counts once and the middle five times.
    """
    wide = images.to(torch.int16)
    rows = wide[:, :, :-2] + wide[:, :, 1:-1] + wide[:, :, 2:]
    sums = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
    sums = sums.add_(wide[:, :, 1:-1, 1:-1], alpha=4)
    smooth = images.float()
    smooth[:, :, 1:-1, 1:-1] = sums.float().div_(13).add_(0.5).floor_()
    return _blended(smooth, images, factors)


def solarize(images: Tensor, thresholds: Tensor) -> Tensor:
    """Invert what is at or above thresholds (B,)."""
    below = images.to(torch.int16) - _each(thresholds).ceil().to(torch.int16)
    inverted = (below >> 15).to(torch.uint8)  # 255 below the threshold, where the sign is set
    return images ^ ~inverted


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    """Keep the highest bits (B,) of each value."""
    return images & _each(256 - 2 ** (8 - bits.long())).to(torch.uint8)


def autocontrast(images: Tensor, _: Tensor) -> Tensor:
    """Stretch each channel so that its least value is 0 and its most 255."""
    low, high = (of(images.flatten(2), 2)[..., None] for of in (torch.amin, torch.amax))
    # Not `255.0 / range`, which torch computes as the product with a rounded reciprocal.
    scale = torch.full_like(low, 255, dtype=torch.float64).div_(high - low)
    values = torch.arange(256, device=images.device)
    stretched = (values * scale - low * scale).clamp_(0, 255)  # not a number where all are equal
    return _looked_up(images, torch.where(high > low, stretched, values))


def equalize(images: Tensor, _: Tensor) -> Tensor:
    """Map each channel's values so that they are used as evenly as possible."""
    count, channels, height, width = images.shape
    places = images.flatten(2).long()
    used = torch.zeros(count, channels, 256, dtype=torch.int64, device=images.device)
    used.scatter_add_(2, places, torch.ones_like(places))
    # The pixels of the highest value do not count, so that it is mapped to 255.
    highest = images.flatten(2).amax(2)[..., None].long()
    step = (height * width - used.gather(2, highest)) // 255
    below = used.cumsum(2) - used
    mapped = ((step // 2 + below) // step.clamp(min=1)).clamp_(max=255)
    return _looked_up(
        images, torch.where(step > 0, mapped, torch.arange(256, device=images.device))
    )


def hue(images: Tensor, turns: Tensor) -> Tensor:
    """Move hues by parts (B,) of a turn of the colour wheel (hue, saturation, value)."""
    if images.shape[1] == 1:
        return images
    pixels = images.float()
    red, green, blue = pixels.unbind(1)
    value, chroma = pixels.amax(1), pixels.amax(1) - pixels.amin(1)
    some = chroma.clamp(min=1)  # of a grey pixel, whose hue does not matter
    sector = torch.where(
        value == red,
        (green - blue) / some,
        torch.where(value == green, 2 + (blue - red) / some, 4 + (red - green) / some),
    )
    sector = sector + 6 * turns.float().view(-1, 1, 1)
    numbers = torch.tensor([5.0, 3.0, 1.0], device=images.device).view(1, 3, 1, 1)
    at = (numbers + sector[:, None]).remainder_(6)
    shares = torch.minimum(at, 4 - at).clamp_(0, 1)
    return _whole(value[:, None] - chroma[:, None] * shares + 0.5)


def _grey(images: Tensor) -> Tensor:
    """Return the grey of each pixel, (B, 1, H, W), float32."""
    if images.shape[1] == 1:
        return images.float()
    # Whole numbers below 2^24: exact in single precision.
    red, green, blue = (images[:, n].float().mul_(part) for n, part in enumerate(LUMA))
    return red.add_(green).add_(blue).add_(32768).mul_(2.0**-16).floor_()[:, None]


def _blended(base: Tensor, images: Tensor, factors: Tensor) -> Tensor:
    """Return base + factor * (image - base), cut off to whole numbers from 0 to 255."""
    base = base.float()
    return _whole((images.float() - base).mul_(_each(factors)).add_(base))


def _looked_up(images: Tensor, table: Tensor) -> Tensor:
    """Replace each value by that of a table (B, C, 256)."""
    places = images.flatten(2).long()
    return table.to(torch.uint8).gather(2, places).view(images.shape)


def _whole(values: Tensor) -> Tensor:
    """Cut numbers off to whole ones from 0 to 255; by way of int16, as that is faster."""
    return values.clamp_(0, 255).to(torch.int16).to(torch.uint8)


def _each(amounts: Tensor) -> Tensor:
    """Return amounts (B,) as they stand beside images, (B, 1, 1, 1); real ones as float32."""
    amounts = amounts.float() if amounts.is_floating_point() else amounts
    return amounts.view(-1, 1, 1, 1)
