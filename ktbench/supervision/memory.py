"""How much of the machine's memory is free, and a limit for a process that may ask for too much."""

from __future__ import annotations

import resource
import sys
from contextlib import suppress
from pathlib import Path

import psutil

CGROUPS = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")
LEFT_FREE = 0.05
"""Share of the free memory that a limited process leaves to the rest of the machine."""


def free_bytes() -> int:
    """Bytes that a process here could still take: of the machine's or its control groups'."""
    free = [psutil.virtual_memory().available, *free_in_groups(CGROUPS, OWN_GROUPS)]
    return int(max(0, min(free)))


def free_in_groups(root: Path, own: Path) -> list[int]:
    """What each limited control group that holds this process has left (Linux, version 1 or 2)."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return []
    free = []
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
            free += _free_in(top / part, *names)
    return free


def _free_in(group: Path, limit: str, usage: str) -> list[int]:
    """Bytes left in one group, if it has a limit; pages of files that can go count as free."""
    try:
        most, used = (group / limit).read_text().strip(), int((group / usage).read_text())
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return []
    files = int(stat.get("total_inactive_file", stat.get("inactive_file", 0)))
    return [] if most == "max" else [int(most) - used + files]


def oom_kills() -> int:
    """Processes that this machine's kernel has ended for want of memory since it started."""
    with suppress(OSError, ValueError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


def limit_to_free() -> None:
    """Let this process's allocations fail before they take what the machine does not have.

    An allocation that fails is an error in the code that asked for it; without a limit the kernel
    would end some process, perhaps another one. Where it still has to, it takes this one first.
    """
    if sys.platform != "linux":
        return
    with suppress(OSError, ValueError):
        status = Path("/proc/self/status").read_text()
        held = next(int(x.split()[1]) for x in status.splitlines() if x.startswith("VmData:"))
        most = held * 1024 + int(free_bytes() * (1 - LEFT_FREE))
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        if hard != resource.RLIM_INFINITY:
            most = min(most, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (most, hard))
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500")
