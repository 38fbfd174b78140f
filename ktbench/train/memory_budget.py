"""How much memory a process may take to train in: what the user says, or half of what is free."""

from __future__ import annotations

import ctypes
import gc
import re
from contextlib import suppress
from dataclasses import dataclass

import psutil
import torch

from ktbench.records import KtbenchError
from ktbench.system.machine import free_memory

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BINARY = {"k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
_SIZE = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([kmgt]?)(i?)b?\s*", re.IGNORECASE)


@dataclass(frozen=True)
class Budget:
    """Bytes that this process may hold in all, and those that it may still take."""

    limit: int
    room: int

    @classmethod
    def here(cls, limit: int | None, *, device: str = "cpu", workers: int = 1) -> Budget:
        """Under a limit; without one, half of what is free, shared by so many processes.

        Of the GPU's memory where that trains, else of the machine's or the control group's.
        """
        held, free = _on_gpu() if device == "cuda" else _on_machine()
        if limit is None:
            limit = held + free // 2 // workers
        return cls(limit, limit - held)


def memory_bytes(text: str) -> int:
    """`4GB`, `1.5 GiB`, `800M` in bytes; raises KtbenchError for anything else, and for nothing."""
    found = _SIZE.fullmatch(text)
    if found is not None:
        number, unit, binary = found[1], found[2].lower(), found[3]
        if unit or not binary:
            size = int(float(number) * (_BINARY if binary else _UNITS)[unit])
            if size > 0:
                return size
    raise KtbenchError(f"--memory {text}: must be a size such as 4GB, 1.5GiB or 800MB")


def _on_gpu() -> tuple[int, int]:
    """Bytes that this process holds there, and that are free."""
    held, reserved = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
    return held, torch.cuda.mem_get_info()[0] + reserved - held


def _on_machine() -> tuple[int, int]:
    """Bytes that this process holds, and that are free."""
    gc.collect()
    give_back()
    return resident(), free_memory()


def resident() -> int:
    """Bytes of the machine's memory that this process holds."""
    return int(psutil.Process().memory_info().rss)


def give_back() -> None:
    """Return to the machine what was freed: scattered between live blocks, glibc keeps it."""
    with suppress(OSError, AttributeError):  # another C library than glibc
        ctypes.CDLL(None).malloc_trim(0)
