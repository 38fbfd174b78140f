"""How much memory a process may take to train in: what the user says, or half of what is free."""

from __future__ import annotations

import ctypes
import gc
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from ktbench.records import KtbenchError

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BINARY = {"k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
_SIZE = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([kmgt]?)(i?)b?\s*", re.IGNORECASE)
CGROUPS = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")


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
    free = [psutil.virtual_memory().available, *_free_in_groups(CGROUPS, OWN_GROUPS)]
    return resident(), max(0, min(free))


def resident() -> int:
    """Bytes of the machine's memory that this process holds."""
    return int(psutil.Process().memory_info().rss)


def give_back() -> None:
    """Return to the machine what was freed: scattered between live blocks, glibc keeps it."""
    with suppress(OSError, AttributeError):  # another C library than glibc
        ctypes.CDLL(None).malloc_trim(0)


def _free_in_groups(root: Path, own: Path) -> list[int]:
    """What each limited control group that holds this process has left (Linux, version 1 or 2)."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "memory":
            top, names = root / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes")
        elif not controllers:
            top, names = root, ("memory.max", "memory.current")
        else:
            continue
        group = Path(path.lstrip("/"))
        for part in (group, *group.parents):  # A parent's limit holds for its children.
            found += _free_in(top / part, *names)
    return found


def _free_in(group: Path, limit: str, usage: str) -> list[int]:
    """Bytes left in one group, if it has a limit; pages of files that can go count as free."""
    try:
        most, used = (group / limit).read_text().strip(), int((group / usage).read_text())
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return []
    files = int(stat.get("total_inactive_file", stat.get("inactive_file", 0)))
    return [] if most == "max" else [int(most) - used + files]
