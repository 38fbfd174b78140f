"""Inputs that networks of timm and torchvision were trained on, from their packages' settings.

timm: `PretrainedCfg` of the network's first weights; torchvision: the transforms of its best.
"""

from __future__ import annotations

import importlib
from typing import Any


def configured(name: str) -> dict[str, Any]:
    """Return the settings that `package:NAME` names: mean, std, size, interpolation, crop.

    Raises ValueError, in one line, where the package has none, or none that images are made by.
    """
    package, _, network = name.partition(":")
    found = _of_timm(network) if package == "timm" else _of_torchvision(network)
    if not found:
        raise ValueError(f"{package} says nothing of the inputs of {network}")
    return found


def _of_timm(network: str) -> dict[str, Any]:
    settings = importlib.import_module("timm").get_pretrained_cfg(network)
    if settings is None:
        return {}
    height, width = settings.input_size[1:]
    if height != width:
        raise ValueError(f"{network} reads images of {height} × {width}, and only squares are made")
    return {
        "mean": list(settings.mean),
        "std": list(settings.std),
        "range": 1,
        "size": height,
        "interpolation": settings.interpolation or "bicubic",
        "crop": settings.crop_pct or 1.0,
    }


def _of_torchvision(network: str) -> dict[str, Any]:
    models = importlib.import_module("torchvision.models")
    made = models.get_model_weights(network).DEFAULT.transforms()
    [size], [resized] = made.crop_size, made.resize_size
    return {
        "mean": list(made.mean),
        "std": list(made.std),
        "range": 1,
        "size": size,
        "interpolation": made.interpolation.value,
        "crop": size / resized,
    }
