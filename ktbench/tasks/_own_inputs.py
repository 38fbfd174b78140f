"""Inputs of a network that was trained on other values or sizes of images than the data set's.

Resizing is that of the usual evaluations: the shorter side becomes `size / crop`, rounded down, and
the centre of `size` a side is kept (timm's `transforms_imagenet_eval`, torchvision's
`ImageClassification`). Making images smaller is smoothed, as Pillow does.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ktbench.records import KtbenchError, Preprocessing
from ktbench.students._contract import Inputs
from ktbench.tasks._contract import OwnInputs, Signature


def own_inputs(own: Preprocessing, signature: Signature) -> OwnInputs:
    """Return what a network reads in place of images of a signature; raises KtbenchError."""
    [images] = signature.inputs
    channels, *sides = images.shape
    if reason := own.channels_objection(channels):
        raise KtbenchError(reason)
    if own.size is None or sides == [own.size, own.size]:
        return OwnInputs(_statistics(own, channels), signature)
    resized_to = replace(images, shape=(channels, own.size, own.size))
    return OwnInputs(
        _statistics(own, channels),
        replace(signature, inputs=(resized_to,), sized_by="preprocess.size"),
        partial(resized, own=own),
    )


def _statistics(own: Preprocessing, channels: int) -> tuple[Tensor, Tensor] | None:
    """Return mean and deviation (C,), float32, on the scale of 0 to 255; None for the data's own.

    (range * x / 255 - mean) / std is (x - 255 / range * mean) / (255 / range * std).
    """
    if own.mean is None or own.std is None:
        return None
    mean, std = (
        (torch.tensor(values, dtype=torch.float64) * 255 / own.range).float().expand(channels)
        for values in (own.mean, own.std)
    )
    return mean.contiguous(), std.contiguous()


def resized(images: Inputs, own: Preprocessing) -> Tensor:
    """Return images (B, C, H, W) as (B, C, size, size), float32: resized, then cropped."""
    assert isinstance(images, Tensor) and own.size is not None
    scaled, shorter = math.floor(own.size / own.crop), min(images.shape[2:])
    sides = [scaled * side // shorter for side in images.shape[2:]]  # (H, W), the longer cut off
    if own.interpolation == "nearest":
        images = _nearest(images, *sides)
    else:
        # Smoothed, bicubic has Pillow's coefficient, -0.5, with which networks are trained.
        images = functional.interpolate(images, sides, mode=own.interpolation, antialias=True)
    top, left = (round((side - own.size) / 2) for side in sides)
    return images[:, :, top : top + own.size, left : left + own.size]


def sidecar(own: Preprocessing) -> dict[str, Any]:
    """Return what a user of an exported file must do to images that are not of its size.

    For the file of a network that reads its own inputs; mean and deviation are those of its data
    set as it is `preprocessed`, inside the graph as ever. Empty where images keep their size.
    """
    if own.size is None:
        return {}
    resize = {
        "shorter_side": math.floor(own.size / own.crop),
        "interpolation": own.interpolation,
        "antialias": own.interpolation != "nearest",
        "centre_crop": own.size,
    }
    return {"image": {"resize": resize}}


def _nearest(images: Tensor, height: int, width: int) -> Tensor:
    """Return the pixels that lie at the centres of the new ones; of two as near, the later."""
    rows, columns = (
        (2 * torch.arange(new, device=images.device) + 1) * old // (2 * new)
        for new, old in zip((height, width), images.shape[2:], strict=True)
    )
    return images[:, :, rows][:, :, :, columns]
