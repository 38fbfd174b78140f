"""Jobs and processes for the tests of the Ray engine."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ktbench.records import NumericSpec, StorageError


@dataclass(frozen=True)
class Nap:
    """A job that sleeps in ten steps."""

    file: Path
    seconds: float
    numeric: NumericSpec = field(default_factory=NumericSpec)


def nap(job: Nap, report: Callable[[float], None]) -> tuple[float, float, str | None]:
    """Sleep; return start and end on a clock that all processes share, and OMP_NUM_THREADS."""
    began = time.monotonic()
    for step in range(10):
        time.sleep(job.seconds / 10)
        report((step + 1) / 10)
    return began, time.monotonic(), os.environ.get("OMP_NUM_THREADS")


def no_space(job: Nap, report: Callable[[float], None]) -> None:
    """Fail as a job does on a full disk."""
    raise StorageError(f"{job.file}: no space left on the disk")


def processes(mark: str) -> dict[int, tuple[int, str]]:
    """Find the processes whose environment holds `mark`: id → (parent's id, command or title)."""
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() not in (place / "environ").read_bytes():
                continue
            command = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            parent = int((place / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue
        found[int(place.name)] = (parent, command.strip())
    return found
