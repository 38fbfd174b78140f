"""Images in a file that is mapped into memory: the kernel reads what is asked for, and forgets it.

A map looks like any tensor, so that nothing needs to know of it but what would copy, write or read
the whole. It cannot be written into: a process that tries is ended by the system.
"""

from __future__ import annotations

import mmap
import warnings
from pathlib import Path
from weakref import WeakValueDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Chosen = slice | Tensor | NDArray[np.int64]
CHUNK_BYTES = 4 << 20
"""Size of the pieces in which a whole map is read."""
_RESIDENT = 64 << 20
"""Most bytes of a map that count as this process's memory before they are given back."""


Sums = tuple[tuple[int, ...], tuple[int, ...]]
"""Per channel the sum of all values, and that of their squares."""


class _Map(mmap.mmap):
    """A mapped file, its place, and the sums over all of its values."""

    path: Path
    sums: Sums
    read_bytes = 0
    """Bytes that were read since its pages were given back."""


_maps: WeakValueDictionary[int, _Map] = WeakValueDictionary()
"""Maps by their address, for as long as a tensor of theirs lives."""


def map_images(path: Path, count: int, shape: tuple[int, int, int], sums: Sums) -> Tensor:
    """Map a file of images (N, H, W, C), uint8, as a tensor (N, C, H, W); `shape` is (C, H, W).

    Raises OSError, and ValueError where the file is shorter.
    """
    channels, height, width = shape
    with path.open("rb") as file:
        mapped = _Map(file.fileno(), count * channels * height * width, access=mmap.ACCESS_READ)
    mapped.path, mapped.sums = path, sums
    stored = np.frombuffer(mapped, np.uint8).reshape(count, height, width, channels)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writ")
        images = torch.from_numpy(stored)
    _maps[images.data_ptr()] = mapped
    return images.permute(0, 3, 1, 2)


def is_mapped(images: Tensor) -> bool:
    """Return True for a tensor that lies in a map, or for a part of one."""
    return _map_of(images) is not None


def _map_of(images: Tensor) -> _Map | None:
    if images.device.type != "cpu":
        return None
    return _maps.get(images.untyped_storage().data_ptr())


def sums_of(images: Tensor) -> Sums | None:
    """Return the sums over a whole map; None for any other tensor."""
    mapped = _map_of(images)
    return mapped.sums if mapped is not None and images.nbytes == len(mapped) else None


def folder_of(images: Tensor) -> Path | None:
    """Return the folder of a map's file; None for any other tensor."""
    mapped = _map_of(images)
    return None if mapped is None else mapped.path.parent


def gathered(stored: Tensor, indices: Tensor) -> Tensor:
    """Copy some images (B, H, W, C) out of a map in its own order (N, H, W, C)."""
    mapped = _map_of(stored)
    assert mapped is not None
    size = stored[0].numel()
    _read_ahead(mapped, indices, size)
    images = stored.index_select(0, indices)
    _count(mapped, size * len(indices))
    return images


def some(images: Tensor, chosen: Chosen) -> Tensor:
    """Return some samples (B, ...); those of a map (N, C, H, W) are copied out of it."""
    mapped = _map_of(images)
    if mapped is None:
        return images[chosen]
    stored = images.permute(0, 2, 3, 1)
    if not isinstance(chosen, slice):
        return gathered(stored, torch.as_tensor(chosen)).permute(0, 3, 1, 2).contiguous()
    part = images[chosen].clone(memory_format=torch.contiguous_format)
    _count(mapped, part.nbytes)
    return part


def rows_per_chunk(images: Tensor) -> int:
    """Return the number of samples (N, ...) that make up a piece of `CHUNK_BYTES`, at least one."""
    return max(1, CHUNK_BYTES // max(1, images[:1].nbytes))


def give_back() -> None:
    """Let go of the pages of every map; they stay in the kernel's cache while there is room."""
    for mapped in list(_maps.values()):
        _forget(mapped)


def _count(mapped: _Map, size: int) -> None:
    mapped.read_bytes += size
    if mapped.read_bytes > _RESIDENT:
        _forget(mapped)


def _forget(mapped: _Map) -> None:
    mapped.read_bytes = 0
    if hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


def _read_ahead(mapped: _Map, indices: Tensor, size: int) -> None:
    """Ask the kernel for all images of a batch at once: a disk is quicker than one by one."""
    if size < mmap.PAGESIZE or not hasattr(mmap, "MADV_WILLNEED"):
        return
    for index in indices.tolist():
        start = index * size // mmap.PAGESIZE * mmap.PAGESIZE
        mapped.madvise(mmap.MADV_WILLNEED, start, min(size + mmap.PAGESIZE, len(mapped) - start))
