"""Image classification: pixels of one size, a class each, judged by top-1 accuracy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ktbench.data import mapped
from ktbench.data.augmentations import Changes
from ktbench.data.augmentations.draws import CROP_X, CROP_Y, FLIP
from ktbench.data.counter import counter_hash, numbered
from ktbench.data.digits import digits
from ktbench.data.images import hub, image_folder, parquet
from ktbench.data.pixels import channel_sums, refuse_mixed
from ktbench.records import ACCURACY, Augmentation, DataSpec, Preprocessing
from ktbench.students._contract import Inputs
from ktbench.tasks._classification import Classification
from ktbench.tasks._contract import InputSpec, OwnInputs, Reading, Signature, Source
from ktbench.tasks._own_inputs import own_inputs
from ktbench.tasks._reading import PICTURE

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Config:
    """Empty settings: those of images (size, augmentation) stand in `data` itself."""


class Learning(Classification):
    """See the file. Raw samples are uint8 (C, H, W), 0 to 255."""

    noun = "image"
    metric = ACCURACY
    blends = True

    # ------------------------------------------------------------ the data

    def open(self, spec: DataSpec, base: Path) -> Source:
        """See `Task.open`."""
        openers = {"digits": digits, "parquet": parquet, "hub": hub, "folder": image_folder}
        return openers[spec.source](spec, base)

    def problem(self, spec: DataSpec, signature: Signature) -> tuple[tuple[str, ...], str] | None:
        """See `Task.problem`: a padding must be smaller than the image, a fit needs a size."""
        if spec.image_size is None and spec.fit != "crop":
            return ("fit",), "says how images come to image_size: give that, or leave it out"
        side, padding = min(signature.inputs[0].shape[1:]), spec.augment.crop_padding
        if padding < side:
            return None
        message = f"must be below the {side} pixels of an image, not {padding}"
        return ("augment", "crop_padding"), message

    def refuse_mixed(self, examples: Mapping[tuple[Shape, ...], str]) -> NoReturn:
        """See `Task.refuse_mixed`."""
        refuse_mixed({shape: name for (shape,), name in examples.items()})

    def signature(
        self, classes: int, shapes: tuple[Shape, ...], facts: Mapping[str, Any]
    ) -> Signature:
        """See `Task.signature`."""
        return image_signature(classes, shapes[0])

    # ------------------------------------------------------------ from pixels to inputs

    def statistics(self, raw: Inputs, facts: Mapping[str, Any]) -> tuple[Tensor, ...]:
        """Return mean and deviation per channel (C,), float32, on the 0 to 255 scale."""
        return _moments(_pixels(raw))

    def inputs(self, raw: Inputs, statistics: tuple[Tensor, ...]) -> Tensor:
        """Convert images (B, C, H, W) to float32 with zero mean and unit variance."""
        mean, std = (each.view(1, -1, 1, 1) for each in statistics)
        return (_pixels(raw).float() - mean) / std

    def between(
        self, source: tuple[Tensor, ...], target: tuple[Tensor, ...]
    ) -> Callable[[Inputs], Inputs] | None:
        """See `Task.between`."""
        if all(torch.equal(a, b) for a, b in zip(source, target, strict=True)):
            return None
        (from_mean, from_std), (to_mean, to_std) = source, target
        scale = (from_std / to_std).view(1, -1, 1, 1)
        shift = ((from_mean - to_mean) / to_std).view(1, -1, 1, 1)

        def moved(inputs: Inputs) -> Tensor:
            images = _pixels(inputs)
            return images * scale.to(images.device) + shift.to(images.device)

        return moved

    def own_inputs(self, own: Preprocessing, signature: Signature) -> OwnInputs:
        """See `Task.own_inputs`."""
        return own_inputs(own, signature)

    def augmentation(self, spec: DataSpec) -> str:
        """See `Task.augmentation`."""
        return "" if spec.augment == Augmentation() else spec.augment.canonical

    def samples(
        self,
        spec: DataSpec,
        raw: Inputs,
        labels: Tensor,
        statistics: tuple[Tensor, ...],
        seed: int,
    ) -> Images:
        """See `Task.samples`."""
        padding = spec.augment.crop_padding
        images = _pixels(raw).permute(0, 2, 3, 1)
        height, width = images.shape[1:3]
        if mapped.is_mapped(images):
            size = height, width
            return Images(images, labels, size, statistics, spec.augment, seed, padding=padding)
        padded = functional.pad(images, (0, 0, padding, padding, padding, padding)).contiguous()
        return Images(padded, labels, (height, width), statistics, spec.augment, seed)

    # ------------------------------------------------------------ the exported file

    def moments(self, statistics: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """See `Task.moments`."""
        mean, std = statistics
        return mean, std

    def sidecar(
        self, signature: Signature, statistics: tuple[Tensor, ...], facts: Mapping[str, Any]
    ) -> dict[str, dict[str, Any]]:
        """See `Task.sidecar`."""
        mean, std = (each.tolist() for each in statistics)
        told = {"range": [0, 255], "normalisation": "inside the graph", "mean": mean, "std": std}
        return {"image": told}

    def reading(self) -> Reading:
        """See `Task.reading`."""
        return PICTURE


def image_signature(classes: int, shape: Shape) -> Signature:
    """Return the signature of networks for images (C, H, W)."""
    return Signature(
        inputs=(InputSpec("image", tuple(shape)),),
        outputs=classes,
        sizes=(("num_classes", classes), ("in_channels", shape[0])),
        noun="image",
        sized_by="data.image_size",
    )


@dataclass(frozen=True)
class Images:
    """Training images as (N, H + 2p, W + 2p, C) uint8; see `Samples`.

    In memory they are padded once. Those of a map are padded batch by batch.
    """

    padded: Tensor
    classes: Tensor
    size: tuple[int, int]
    """Height and width of an image."""
    statistics: tuple[Tensor, ...]
    augment: Augmentation
    seed: int
    padding: int | None = None
    """Pixels of padding that images of a map lack (`padded` is the map); None in memory."""

    @property
    def kept(self) -> tuple[Tensor, ...]:
        """See `Samples.kept`."""
        return () if self.padding is not None else (self.padded,)

    def inputs(self, indices: Tensor, view: int) -> Tensor:
        """Augmented, normalised images (B, C, H, W), float32, laid out channels-last."""
        inputs = self.normalised(self.augmented(indices, view))
        return self._changes.inputs(inputs, indices, view)

    def labels(self, indices: Tensor, view: int) -> Tensor:
        """Classes (B,), the same in every view."""
        return self.classes[indices]

    @cached_property
    def _changes(self) -> Changes:
        return Changes(self.augment, self.seed)

    def augmented(self, indices: Tensor, view: int) -> Tensor:
        """Raw images (B, H, W, C), uint8, after all that changes pixels."""
        return self._changes.pixels(self._cropped(indices, view), indices, view)

    def _cropped(self, indices: Tensor, view: int) -> Tensor:
        """Raw images (B, H, W, C), uint8, after crop and flip."""
        padded, places = self._padded(indices)
        if not (self.augment.crop_padding or self.augment.flip):
            return padded[places]
        height, width = self.size
        rows, columns = self.windows(indices.numpy(), view)
        _, tall, wide, channels = padded.shape
        pixels = places.view(-1, 1, 1) * (tall * wide) + rows[:, :, None] * wide
        pixels = (pixels + columns[:, None, :]).flatten().to(padded.device)
        chosen = padded.view(-1, channels).index_select(0, pixels)  # copies whole pixels
        return chosen.view(len(indices), height, width, channels)

    def _padded(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return padded images (n, H + 2p, W + 2p, C), and the places in it of those asked for."""
        if self.padding is None:
            return self.padded, indices
        p, batch = self.padding, mapped.gathered(self.padded, indices)
        return functional.pad(batch, (0, 0, p, p, p, p)), torch.arange(len(indices))

    def normalised(self, images: Tensor) -> Tensor:
        """Convert (B, H, W, C) uint8 to (B, C, H, W) float32 with zero mean and unit variance."""
        width = images.shape[2]
        mean, std = self.statistics
        rows = images.flatten(2).to(torch.float32)  # a row at a time: a pixel is too short a loop
        rows.sub_(mean.repeat(width)).div_(std.repeat(width))
        return rows.view(images.shape).permute(0, 3, 1, 2)

    def windows(self, indices: NDArray[np.int64], view: int) -> tuple[Tensor, Tensor]:
        """Return rows (B, H) and columns (B, W) of each sample's crop of the padded image."""
        height, width = self.size
        count = np.uint64(2 * self.augment.crop_padding + 1)
        top = counter_hash(self.seed, numbered(CROP_Y, view), indices) % count
        left = counter_hash(self.seed, numbered(CROP_X, view), indices) % count
        rows = torch.from_numpy(top.astype(np.int64))[:, None] + torch.arange(height)
        columns = torch.from_numpy(left.astype(np.int64))[:, None] + torch.arange(width)
        if self.augment.flip:
            words = counter_hash(self.seed, numbered(FLIP, view), indices)
            mirrored = torch.from_numpy((words >> np.uint64(63)).astype(bool))
            columns = torch.where(mirrored[:, None], columns.flip(1), columns)
        return rows, columns


def _pixels(raw: Inputs) -> Tensor:
    assert isinstance(raw, Tensor)
    return raw


def _moments(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation per channel, summed exactly in integers."""
    count = images.numel() // images.shape[1]
    totals, sums = mapped.sums_of(images) or channel_sums(images.numpy())
    total, squares = (torch.tensor(each, dtype=torch.int64).double() for each in (totals, sums))
    mean = total / count
    variance = (squares / count - mean.square()).clamp(min=0)
    return mean.float(), variance.sqrt().clamp(min=1e-3).float()
