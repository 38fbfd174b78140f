"""Inputs that a network was trained on, as its package or a file beside its weights says.

The file is `preprocessor_config.json` of Hugging Face's `transformers`: its image processors divide
pixels by `1 / rescale_factor`, subtract `image_mean` and divide by `image_std`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ktbench.records import KtbenchError
from ktbench.students import _package_inputs, _packages
from ktbench.system.files import MOST_TEXT, read_regular

CONFIG = "preprocessor_config.json"
_RESAMPLING = {0: "nearest", 2: "bilinear", 3: "bicubic"}
"""Pillow's numbers of the interpolations that are made here."""


def own_inputs(network: str, weights: Path) -> dict[str, Any]:
    """Return the keys of `preprocess` that the network's own configuration gives.

    The file beside the weights comes first, then the package. Raises KtbenchError, in one line,
    where there is neither, and for settings that are not made here.
    """
    file = weights.parent / CONFIG
    if file.is_file():
        return read_processor(file)
    if _packages.package_of(network) is None:
        raise KtbenchError(
            f"own: {network} is of no package that says what it reads, and no {CONFIG} lies beside "
            "the weights: name a preset, or give mean and std"
        )
    try:
        return _package_inputs.configured(network)
    except (ValueError, ImportError) as error:
        raise KtbenchError(f"own: {error}: name a preset, or give mean and std") from error


def read_processor(file: Path) -> dict[str, Any]:
    """Return the keys of `preprocess` that an image processor's file gives."""
    try:
        settings = json.loads(read_regular(file, MOST_TEXT))
        if not isinstance(settings, dict):
            raise ValueError("it holds no mapping")
        return {**_values(settings), **_size(settings)}
    except OSError as error:
        raise KtbenchError(f"{file}: {(error.strerror or 'not readable').lower()}") from error
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise KtbenchError(
            f"{file}: not settings that images are made by here ({reason}): "
            "write out mean, std and size"
        ) from error


def _values(settings: dict[str, Any]) -> dict[str, Any]:
    """Return mean, std and range; a factor other than 1 and 1/255 goes into mean and std."""
    if settings.get("rescale_offset"):
        raise ValueError("rescale_offset moves pixels to -1 to 1")
    factor = float(settings.get("rescale_factor", 1 / 255)) if _does(settings, "rescale") else 1.0
    mean, std = [0.0], [1.0]
    if _does(settings, "normalize"):
        mean, std = (_listed(settings[f"image_{name}"]) for name in ("mean", "std"))
    if factor == 1.0:
        return {"mean": mean, "std": std, "range": 255}
    scale = 255 * factor
    if abs(scale - 1) < 1e-6:
        return {"mean": mean, "std": std, "range": 1}
    return {"mean": [m / scale for m in mean], "std": [s / scale for s in std], "range": 1}


def _size(settings: dict[str, Any]) -> dict[str, Any]:
    """Return size, interpolation and crop."""
    if not _does(settings, "resize"):
        return {}
    number = settings.get("resample", 2)
    if number not in _RESAMPLING:
        raise ValueError(f"resample {number} is none of bilinear, bicubic and nearest")
    resized = kept = _side(settings["size"])
    crop = 1.0
    if settings.get("do_center_crop", False):
        kept = _side(settings.get("crop_size", settings["size"]))
        crop = kept / resized
    elif "crop_pct" in settings and resized < _SQUEEZED_FROM:
        crop = float(settings["crop_pct"])
    return {"size": kept, "interpolation": _RESAMPLING[number], "crop": crop}


_SQUEEZED_FROM = 384
"""Size from which processors with `crop_pct` (ConvNeXT) squeeze images in place of cropping."""


def _does(settings: dict[str, Any], step: str) -> bool:
    return bool(settings.get(f"do_{step}", True))


def _listed(value: Any) -> list[float]:
    return [float(number) for number in (value if isinstance(value, list) else [value])]


def _side(size: Any) -> int:
    """Return a size's side: a number, `shortest_edge`, or `height` and `width`, which are equal."""
    sides = set(size.values()) if isinstance(size, dict) else {size}
    if len(sides) != 1:
        raise ValueError(f"size {size} is not square")
    return int(sides.pop())
