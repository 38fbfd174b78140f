"""Changes of colours for a batch of images (B, H, W, C), uint8, each image with its own amount.

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
    return _blended(images.new_zeros(1), images, factors)


def contrast(images: Tensor, factors: Tensor) -> Tensor:
    """Scale the distance from the image's mean grey by factors (B,)."""
    greys = grey(images)
    means = greys.sum(dim=(1, 2, 3), dtype=torch.float64) / greys[0].numel()
    return _blended((means + 0.5).floor().view(-1, 1, 1, 1), images, factors)


def saturation(images: Tensor, factors: Tensor) -> Tensor:
    """Scale the distance from each pixel's own grey by factors (B,)."""
    return images if images.shape[3] == 1 else _blended(grey(images), images, factors)


def sharpness(images: Tensor, factors: Tensor) -> Tensor:
    """Scale the distance from the smoothed image by factors (B,); borders are not smoothed."""
    smooth = images.clone()
    smooth[:, 1:-1, 1:-1] = _smoothed(images)
    return _blended(smooth, images, factors)


def solarize(images: Tensor, thresholds: Tensor) -> Tensor:
    """Invert what is at or above thresholds (B,)."""
    return torch.where(images < thresholds.view(-1, 1, 1, 1), images, 255 - images)


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    """Keep the highest bits (B,) of each value."""
    kept = (256 - 2 ** (8 - bits.long())).to(torch.uint8)
    return images & kept.view(-1, 1, 1, 1)


def autocontrast(images: Tensor, _: Tensor) -> Tensor:
    """Stretch each channel so that its least value is 0 and its most 255."""
    low, high = images.amin((1, 2), keepdim=True), images.amax((1, 2), keepdim=True)
    # Not `255.0 / range`, which torch computes as the product with a rounded reciprocal.
    scale = torch.full_like(low, 255, dtype=torch.float64).div_(high - low)
    stretched = (images * scale - low * scale).clamp_(0, 255)  # not a number where all are equal
    return torch.where(high > low, stretched, images).to(torch.uint8)


def equalize(images: Tensor, _: Tensor) -> Tensor:
    """Map each channel's values so that they are used as evenly as possible."""
    count, height, width, channels = images.shape
    rows = torch.arange(count * channels, device=images.device).view(count, 1, 1, channels)
    places = images.long() + 256 * rows
    ones = torch.ones((), dtype=torch.int64, device=images.device).expand(places.numel())
    used = torch.zeros(count * channels * 256, dtype=torch.int64, device=images.device)
    used = used.scatter_add_(0, places.flatten(), ones).view(-1, 256)  # (B * C, 256)
    # The pixels of the highest value do not count, so that it is mapped to 255.
    highest = images.amax((1, 2)).view(-1, 1).long()
    step = (height * width - used.gather(1, highest)) // 255
    below = used.cumsum(1) - used
    mapped = ((step // 2 + below) // step.clamp(min=1)).clamp_(max=255)
    mapped = torch.where(step > 0, mapped, torch.arange(256, device=images.device))
    return mapped.to(torch.uint8).flatten()[places]


def hue(images: Tensor, turns: Tensor) -> Tensor:
    """Move hues by parts (B,) of a turn of the colour wheel (hue, saturation, value)."""
    if images.shape[3] == 1:
        return images
    red, green, blue = images.float().unbind(3)
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    sector = torch.where(
        value == red,
        (green - blue) / chroma,
        torch.where(value == green, 2 + (blue - red) / chroma, 4 + (red - green) / chroma),
    )
    sector = sector + 6 * turns.float().view(-1, 1, 1)
    moved = []
    for number in (5, 3, 1):
        at = (number + sector).remainder(6)
        moved.append(value - chroma * torch.minimum(at, 4 - at).clamp(0, 1))
    turned = torch.stack(moved, 3).round_()
    return torch.where(chroma[..., None] > 0, turned, value[..., None]).to(torch.uint8)


def grey(images: Tensor) -> Tensor:
    """Return the grey of each pixel, (B, H, W, 1), uint8."""
    if images.shape[3] == 1:
        return images
    # Whole numbers below 2^24: exact in single precision, in whatever order they are added.
    weighted = images.float() @ torch.tensor(LUMA, device=images.device)
    return ((weighted + 32768) / 65536).to(torch.uint8)[..., None]


def _smoothed(images: Tensor) -> Tensor:
    """Return the 3 x 3 means (B, H - 2, W - 2, C) in which the middle counts five times."""
    wide = images.to(torch.int16)
    rows = wide[:, :-2] + wide[:, 1:-1] + wide[:, 2:]
    sums = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:] + 4 * wide[:, 1:-1, 1:-1]
    return (sums.float() / 13 + 0.5).to(torch.uint8)


def _blended(base: Tensor, images: Tensor, factors: Tensor) -> Tensor:
    """Return base + factor * (image - base), cut off to whole numbers from 0 to 255."""
    base = base.float()
    moved = (images.float() - base).mul_(factors.float().view(-1, 1, 1, 1)).add_(base)
    return moved.clamp_(0, 255).to(torch.uint8)
