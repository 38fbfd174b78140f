"""A memory limit for a child process, and the kernel's count of processes it has ended."""

from __future__ import annotations

import resource
import sys
from contextlib import suppress
from pathlib import Path

from ktbench.system.machine import free_memory

LEFT_FREE = 0.05
"""Share of the free memory that a limited process leaves to the rest of the machine."""


def oom_kills() -> int:
    """Count the processes that the kernel has ended for want of memory since it started."""
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
        most = held * 1024 + int(free_memory() * (1 - LEFT_FREE))
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        if hard != resource.RLIM_INFINITY:
            most = min(most, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (most, hard))
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500")
