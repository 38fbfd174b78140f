"""The memory that a process may use for training: a limit, or half of what is free."""

from __future__ import annotations

import ctypes
import gc
from contextlib import suppress
from dataclasses import dataclass

import psutil
import torch

from ktbench.data import mapped
from ktbench.records import KtbenchError
from ktbench.system.machine import free_memory
from ktbench.system.quantities import bytes_of


@dataclass(frozen=True)
class Budget:
    """Bytes that this process may hold in all (`limit`) and may still take (`room`)."""

    limit: int
    room: int

    @classmethod
    def here(cls, limit: int | None, *, device: str = "cpu", workers: int = 1) -> Budget:
        """Return the budget under a limit; without one, half of what is free, per worker.

        It is the GPU's memory where that trains, else the machine's or the control group's.
        """
        held, free = _on_gpu() if device == "cuda" else _on_machine()
        if limit is None:
            limit = held + free // 2 // workers
        return cls(limit, limit - held)


def memory_bytes(text: str) -> int:
    """Parse `4GB`, `1.5 GiB` or `800M`; raises KtbenchError for anything else, zero included."""
    size = bytes_of(text)
    if size is not None and size > 0:
        return size
    raise KtbenchError(f"--memory {text}: must be a size such as 4GB, 1.5GiB or 800MB")


def _on_gpu() -> tuple[int, int]:
    """Return the bytes of GPU memory that this process holds, and those that are free."""
    held, reserved = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
    return held, torch.cuda.mem_get_info()[0] + reserved - held


def _on_machine() -> tuple[int, int]:
    """Return the bytes that this process holds, and those that are free."""
    gc.collect()
    give_back()
    mapped.give_back()  # pages of a file count as held, but the system takes them when it needs to
    return resident(), free_memory()


def resident() -> int:
    """Return the bytes of the machine's memory that this process holds."""
    return int(psutil.Process().memory_info().rss)


def give_back() -> None:
    """Return freed memory to the machine: glibc keeps what lies between live blocks."""
    with suppress(OSError, AttributeError):  # another C library than glibc
        ctypes.CDLL(None).malloc_trim(0)
