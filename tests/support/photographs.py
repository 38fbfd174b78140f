"""Small pictures, and what Pillow and plain loops make of them image by image."""

from __future__ import annotations

import colorsys
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

Picture = NDArray[np.uint8]
"""(H, W, C)"""
ENHANCERS = {
    "color": ImageEnhance.Color,
    "contrast": ImageEnhance.Contrast,
    "brightness": ImageEnhance.Brightness,
    "sharpness": ImageEnhance.Sharpness,
}


def pictures(count: int, height: int, width: int, channels: int, seed: int = 0) -> Picture:
    """Return smooth pictures (N, H, W, C), one of a single colour, one of noise, one of two."""
    draws = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        coarse = draws.integers(0, 256, (5, 5, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        made.append(np.asarray(image)[..., :channels])
    made[0] = np.full_like(made[0], 77)
    made[1] = draws.integers(0, 256, made[1].shape, dtype=np.uint8)
    made[2] = np.where(made[2] > 128, 200, 40).astype(np.uint8)
    return np.stack(made)


def as_image(pixels: Picture) -> Image.Image:
    """Return a picture as Pillow holds it."""
    return Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[..., 0])


def as_pixels(image: Image.Image) -> Picture:
    """Return a picture of Pillow's as pixels."""
    pixels = np.asarray(image)
    return pixels if pixels.ndim == 3 else pixels[..., None]


def as_planes(pictures: Picture) -> Tensor:
    """Return pictures (B, H, W, C) as the planes (B, C, H, W) that augmentations work on."""
    return torch.tensor(pictures).permute(0, 3, 1, 2).contiguous()


def as_pictures(planes: Tensor) -> Tensor:
    """Return planes (B, C, H, W) as pictures (B, H, W, C)."""
    return planes.permute(0, 2, 3, 1).contiguous()


def operation(name: str, image: Image.Image, sign: float, magnitude: float) -> Image.Image:
    """Do one of RandAugment's operations with Pillow, in AutoAugment's ranges."""
    share = magnitude / 10
    amount = sign * share
    if name == "identity":
        return image
    if name == "autocontrast":
        return ImageOps.autocontrast(image)
    if name == "equalize":
        return ImageOps.equalize(image)
    if name == "solarize":
        return ImageOps.solarize(image, int(np.ceil(256 * (1 - share))))
    if name == "posterize":
        return ImageOps.posterize(image, 8 - round(4 * share))
    if name in ENHANCERS:
        return ENHANCERS[name](image).enhance(1 + 0.9 * amount)
    fill: Any = 128 if image.mode == "L" else (128, 128, 128)
    if name == "rotate":
        return image.rotate(30 * amount, fillcolor=fill)
    right, down = (sign * round(150 / 331 * side * share) for side in image.size)
    matrix = {
        "shear_x": (1, 0.3 * amount, 0, 0, 1, 0),
        "shear_y": (1, 0, 0, 0.3 * amount, 1, 0),
        "translate_x": (1, 0, -right, 0, 1, 0),
        "translate_y": (1, 0, 0, 0, 1, -down),
    }[name]
    return image.transform(image.size, Image.Transform.AFFINE, matrix, fillcolor=fill)


def part(image: Image.Image, top: int, left: int, height: int, width: int) -> Image.Image:
    """Cut out a part and stretch it to the image's size with Pillow."""
    cut = image.crop((left, top, left + width, top + height))
    return cut.resize(image.size, Image.Resampling.BILINEAR)


def turned(pixels: Picture, turns: float) -> Picture:
    """Move the hue of each pixel on the colour wheel, with Python's own formulas."""
    made = np.empty_like(pixels)
    for place in np.ndindex(pixels.shape[:2]):
        hue, saturation, value = colorsys.rgb_to_hsv(*(pixels[place] / 255))
        made[place] = np.rint(
            np.array(colorsys.hsv_to_rgb((hue + turns) % 1, saturation, value)) * 255
        )
    return made
