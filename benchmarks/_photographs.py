"""Folders of synthetic photographs of any number, which are quick to make."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

DISTINCT = 50
"""Different files; the others are links to them."""
_CLASSES = 10


def write_photographs(folder: Path, count: int, side: int = 224, longer: int = 0) -> list[Path]:
    """Write `count` JPEG files of ten classes, (side + longer) × side pixels; return their paths.

    Smooth random colours with some noise, so that a file takes about as long to decode as a photo.
    """
    noise = np.random.default_rng(0)
    paths: list[Path] = []
    for number in range(count):
        path = folder / f"class{number % _CLASSES}" / f"{number:06}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        if number < DISTINCT:
            _photograph(noise, side, side + longer).save(path, quality=90)
        else:
            path.hardlink_to(paths[number % DISTINCT])
        paths.append(path)
    return paths


def _photograph(noise: np.random.Generator, height: int, width: int) -> Image.Image:
    coarse = noise.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    grain = noise.normal(0, 8, (height, width, 3))
    return Image.fromarray(np.clip(np.asarray(smooth) + grain, 0, 255).astype(np.uint8))
