"""Cores and memory that this process may use, with the limits of control groups."""

from __future__ import annotations

import math
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

CGROUPS = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")
_LEAST_ROOM = 1 << 30
"""Least bytes of a bounded block: libraries and threads take some, too."""


def usable_cores() -> int:
    """Count the cores that this process may keep busy: those it may run on, within its quota."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, min([cores, *_quotas(CGROUPS, OWN_GROUPS)]))


def free_memory() -> int:
    """Return the bytes that are free on this machine, or in this process's control group."""
    free = [int(psutil.virtual_memory().available), *free_in_groups(CGROUPS, OWN_GROUPS)]
    return max(0, min(free))


def all_memory() -> int:
    """Return the bytes of this machine's memory, or of this process's control group."""
    limits = _limits(CGROUPS, OWN_GROUPS)
    return min([int(psutil.virtual_memory().total), *limits])


@contextmanager
def bounded_memory(share: float = 0.5) -> Iterator[int]:
    """Let the block take a share of what is free; an allocation beyond it raises MemoryError.

    One of torch's raises RuntimeError. Yields the bytes. Without it a network far too large is not
    refused but has its process killed, as systems promise more memory than there is.
    """
    room = max(_LEAST_ROOM, int(share * free_memory()))
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    most = _reserved() + room
    if soft != resource.RLIM_INFINITY and soft <= most:
        yield room
        return
    resource.setrlimit(resource.RLIMIT_AS, (most, hard))
    try:
        yield room
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _reserved() -> int:
    """Return the bytes of address space that this process holds, used or not."""
    return int(psutil.Process().memory_info().vms)


# ---------------------------------------------------------------- control groups


def free_in_groups(root: Path, own_groups: Path) -> list[int]:
    """List the free bytes of each limited control group of this process (Linux, version 1 or 2)."""
    free_bytes = (_free_in(group, *names) for group, names in _memory_groups(root, own_groups))
    return [free for free in free_bytes if free is not None]


def _limits(root: Path, own_groups: Path) -> list[int]:
    """List the memory limits of the control groups of this process."""
    limits = []
    for group, (limit, _) in _memory_groups(root, own_groups):
        with suppress(OSError, ValueError):  # "max" is no number, and no limit
            limits.append(int((group / limit).read_text()))
    return limits


def _memory_groups(root: Path, own_groups: Path) -> Iterator[tuple[Path, tuple[str, str]]]:
    for controllers, path in _own_groups(own_groups):
        if "memory" in controllers:
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
            yield from ((group, names) for group in _with_parents(root / "memory", path))
        elif controllers == [""]:
            names = ("memory.max", "memory.current")
            yield from ((group, names) for group in _with_parents(root, path))


def _own_groups(own_groups: Path) -> list[tuple[list[str], str]]:
    """List the controllers of each hierarchy, and this process's group in it."""
    try:
        lines = own_groups.read_text().splitlines()
    except OSError:
        return []
    parts = [line.split(":", 2) for line in lines if line.count(":") >= 2]
    return [(controllers.split(","), path) for _, controllers, path in parts]


def _with_parents(top: Path, path: str) -> list[Path]:
    """Return a group and those above it, whose limits hold for it too."""
    group = Path(path.lstrip("/"))
    return [top / part for part in (group, *group.parents)]


def _free_in(group: Path, limit: str, usage: str) -> int | None:
    """Return the bytes left in a group, if it has a limit; evictable file pages count as free."""
    try:
        most, used = (group / limit).read_text().strip(), int((group / usage).read_text())
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None
    files = int(stat.get("total_inactive_file", stat.get("inactive_file", 0)))
    return None if most == "max" else int(most) - used + files


def _quotas(root: Path, own_groups: Path) -> list[int]:
    """List the cores that each control group's quota of processor time is worth, rounded up."""
    quotas = []
    for controllers, path in _own_groups(own_groups):
        for group in _with_parents(root / "cpu" if "cpu" in controllers else root, path):
            with suppress(OSError, ValueError):
                quota, period = _quota(group, version_1="cpu" in controllers)
                if quota > 0 and period > 0:
                    quotas.append(math.ceil(quota / period))
    return quotas


def _quota(group: Path, *, version_1: bool) -> tuple[int, int]:
    """Read quota and period in microseconds; raises OSError or ValueError where unlimited."""
    if version_1:
        names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
        quota, period = (int((group / name).read_text()) for name in names)
        return quota, period
    quota, period = map(int, (group / "cpu.max").read_text().split())
    return quota, period
