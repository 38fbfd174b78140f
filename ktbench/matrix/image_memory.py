"""Whether this machine can hold a data set's images, and a batch of them, before any is decoded."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ktbench.data import DataInfo
from ktbench.matrix.document import Problem
from ktbench.matrix.models import Matrix
from ktbench.records import DataSpec
from ktbench.system.machine import all_memory


def unbearable(data: DataSpec, info: DataInfo) -> Iterator[Problem]:
    """What a data set's images make impossible: they are held in memory, and cropped after padding.

    Paths are below `data`.
    """
    images = info.train_size + info.validation_size + info.test_size
    held, most = images * math.prod(info.shape), all_memory()
    if held > most:
        path = ("image_size",) if data.image_size is not None else ()
        yield Problem(
            path,
            f"{images:,} images of {'×'.join(map(str, info.shape))} take {held / 1e9:,.0f} GB of "
            f"memory, and this machine has {most / 1e9:,.0f} GB: make image_size or train_size "
            "smaller",
        )
    side = min(info.shape[1:])
    if data.augment.crop_padding >= side:
        message = f"must be below the {side} pixels of an image, not {data.augment.crop_padding}"
        yield Problem(("augment", "crop_padding"), message)


def overweight(matrix: Matrix, info: DataInfo) -> Iterator[Problem]:
    """That a batch of images alone does not fit this machine."""
    size = min(matrix.train.batch_size, info.train_size)
    held, most = 4 * size * math.prod(info.shape), all_memory() // 2
    if held > most:
        yield Problem(
            ("train", "batch_size"),
            f"{size:,} images of {'×'.join(map(str, info.shape))} take {held / 1e9:,.0f} GB of "
            f"memory, more than half of this machine's: make batch_size or image_size smaller",
        )
