"""Place of a data set's images: in memory, or decoded on disk and mapped."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from torch import Tensor

from ktbench.data import image_store
from ktbench.data.encoded import UnreadableError
from ktbench.data.image_store import Split, progress, reporting
from ktbench.data.sources import counted
from ktbench.records import DataSpec, StorageError
from ktbench.system.files import cache_folder
from ktbench.system.machine import free_memory
from ktbench.tasks._contract import Labels, Source

MEMORY_BYTES = 512 * 10**6
"""Largest data set of `keep: auto` that stays in memory, as decoded images of all splits."""
_COPIES = 2
"""Copies of a data set in memory: as it is, and training images in the order of batches."""
Rows = Mapping[str, tuple[str, Labels]]
"""By split, the split of the source and its rows."""


@dataclass(frozen=True)
class Storage:
    """Place of a data set's images, and the bytes that they take there."""

    way: Literal["memory", "store"]
    images: int
    nbytes: int
    """Size of all images when decoded."""
    missing_bytes: int
    """Bytes that the disk must still take."""
    folder: Path

    @property
    def text(self) -> str:
        """Describe it in a line, beside what is free."""
        size, images = gigabytes(self.nbytes), counted(self.images, "image")
        if self.way == "memory":
            return f"{images}, decoded {size}: in memory, {gigabytes(_COPIES * self.nbytes)} in all"
        free = f"{gigabytes(_free_on_disk(self.folder))} are free"
        rest = f"{gigabytes(self.missing_bytes)} still to be written; {free}"
        todo = rest if self.missing_bytes else "which is there already"
        return f"{images}, decoded {size}: in a store on the disk ({self.folder}; {todo})"

    @property
    def problem(self) -> str | None:
        """Say in a line why it does not fit here, or None."""
        if self.way == "memory":
            needed, free = _COPIES * self.nbytes, free_memory()
            if needed <= free:
                return None
            return (
                f"data: {counted(self.images, 'image')} take {gigabytes(needed)} of memory when "
                f"decoded, and {gigabytes(free)} are free: set data.keep: store, or a smaller "
                "data.image_size"
            )
        free = _free_on_disk(self.folder)
        if self.missing_bytes <= free:
            return None
        return (
            f"data: {self.folder}: no space left on the disk for {counted(self.images, 'image')}: "
            f"decoded they take {gigabytes(self.missing_bytes)} more, and {gigabytes(free)} are "
            "free: free some, set KTBENCH_CACHE to a folder on another disk, or set a smaller "
            "data.image_size"
        )


def storage_of(
    spec: DataSpec, base: Path, source: Source, rows: Rows, shape: tuple[int, ...]
) -> Storage | None:
    """Return how a data set is kept whose images have a shape (C, H, W); None for no images."""
    if source.identity is None:
        return None
    count = sum(len(chosen) for _, chosen in rows.values())
    size = count * math.prod(shape)
    folder = cache_folder() / "images"
    if _way(spec, size) == "memory":
        return Storage("memory", count, size, 0, folder)
    splits = _splits(spec, base, source, rows, shape)
    missing = sum(split.missing_bytes for split in splits.values())
    return Storage("store", count, size, missing, folder)


def _way(spec: DataSpec, size: int) -> Literal["memory", "store"]:
    if spec.keep == "auto":
        return "memory" if size <= MEMORY_BYTES else "store"
    return spec.keep


def _splits(
    spec: DataSpec, base: Path, source: Source, rows: Rows, shape: tuple[int, ...]
) -> dict[str, Split]:
    channels, height, width = shape
    origin, chosen = rows["train"]
    example = source.row_name(origin, int(chosen[0]))
    return {
        name: Split(spec, base, source, *rows[name], (channels, height, width), example)
        for name in ("train", "validation", "test")
    }


def stored(spec: DataSpec, base: Path, source: Source, rows: Rows) -> dict[str, Tensor] | None:
    """Return the images of each split (N, C, H, W), mapped; None where they are kept in memory.

    Raises KtbenchError for images that cannot be read, and StorageError where disk or memory cannot
    hold them.
    """
    if source.identity is None:
        return None
    origin, chosen = rows["train"]
    first = source.read(origin, chosen[:1])
    assert isinstance(first, np.ndarray)
    shape = first.shape[1:]
    kept = storage_of(spec, base, source, rows, shape)
    assert kept is not None
    if problem := kept.problem:
        raise StorageError(problem)
    if kept.way == "memory":
        return None
    images, done, errors = dict[str, Tensor](), 0, list[UnreadableError]()
    for name, split in _splits(spec, base, source, rows, shape).items():
        try:
            with _part_of_all(done, len(split.rows), kept.images):
                images[name] = image_store.opened(split)
        except UnreadableError as error:  # those of other splits are to be named, too
            errors.append(error)
        done += len(split.rows)
    if errors:
        raise UnreadableError.joined(errors)
    return images


@contextmanager
def _part_of_all(before: int, count: int, total: int) -> Iterator[None]:
    """Report the progress of one of several splits as a share of all images."""
    report = progress.get()
    if report is None:
        yield
        return
    with reporting(lambda share: report((before + share * count) / total)):
        yield


# ---------------------------------------------------------------- sizes


def _free_on_disk(folder: Path) -> int:
    """Return the bytes that are free where a folder is, or will be."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(there).free


def gigabytes(size: int) -> str:
    """Write a number of bytes for people."""
    return f"{size / 1e9:,.1f} GB" if size >= 10**9 else f"{size / 1e6:,.1f} MB"
