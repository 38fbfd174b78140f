"""Joules of a piece of work: counted by the processor (RAPL) where it can be read, else estimated.

RAPL counts microjoules per package since some time and starts again at `max_energy_range_uj`
(Linux kernel, Documentation/power/powercap/powercap.rst).
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

POWERCAP = Path("/sys/class/powercap")
SAMPLE_S = 2.0
"""Between two readings: a counter starts again after minutes at the earliest."""
IDLE_S = 1.0
"""For so long the machine is watched before the work begins."""
_COUNTED = ("package", "dram")
"""A package's own sub-domains (core, uncore) are in it already, memory is not; psys is all."""


@dataclass(frozen=True, slots=True)
class Energy:
    """What a piece of work took."""

    joules: float
    """Measured: of all packages over the work's time, the share that they take idle included."""
    origin: Literal["measured", "estimated"]
    idle_joules: float | None = None
    """Measured: what the same time would have taken with the work left out, by the watts right
    before it. Estimates know none."""
    watts: float | None = None
    """Estimated: what a busy core was taken to draw."""


def estimated(cpu_seconds: float, watts: float) -> Energy:
    """CPU-seconds times the stated watts of one busy core; an idle machine's are left out."""
    return Energy(cpu_seconds * watts, "estimated", watts=watts)


@dataclass
class Counter:
    """One RAPL domain, as a sum that never starts again."""

    folder: Path
    joules: float = 0.0
    """Since it was made."""
    _last: int = field(init=False)
    _range: int = field(init=False)

    def __post_init__(self) -> None:
        self._range = int((self.folder / "max_energy_range_uj").read_text())
        self._last = self._now()

    def sample(self) -> None:
        """Add what was counted since the last sample; at most one new start lies between."""
        now = self._now()
        used = now - self._last
        self.joules += (used if used >= 0 else used + self._range) / 1e6
        self._last = now

    def _now(self) -> int:
        return int((self.folder / "energy_uj").read_text())


def counters(powercap: Path = POWERCAP) -> list[Counter]:
    """The domains that this process may read; none on another processor, or without the right."""
    found = []
    try:
        for folder in sorted(powercap.glob("intel-rapl:*")):
            name = (folder / "name").read_text().strip()
            if name.startswith(_COUNTED):
                found.append(Counter(folder))
    except (OSError, ValueError):
        return []  # half of a machine's energy is no measurement
    return found


class Meter:
    """Counts the joules of a `with` block where the processor does; a thread takes samples."""

    def __init__(
        self, *, powercap: Path = POWERCAP, idle: float = IDLE_S, sample: float = SAMPLE_S
    ) -> None:
        self._powercap, self._idle, self._sample = powercap, idle, sample
        self._counters: list[Counter] = []
        self._done = threading.Event()
        self._thread: threading.Thread | None = None
        self._idle_watts = 0.0
        self._failed = False
        self.energy: Energy | None = None
        """After the block: what was measured, or None where nothing could be read."""

    def __enter__(self) -> Meter:
        self._counters = counters(self._powercap)
        if not self._counters:
            return self
        began = time.perf_counter()
        self._done.wait(self._idle)
        self._take()
        self._idle_watts = self._total() / (time.perf_counter() - began)
        self._before, self._began = self._total(), time.perf_counter()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread is None:
            return
        self._done.set()
        self._thread.join()
        self._take()
        if not self._failed:
            idle = self._idle_watts * (time.perf_counter() - self._began)
            self.energy = Energy(self._total() - self._before, "measured", idle_joules=idle)

    def _watch(self) -> None:
        while not self._done.wait(self._sample):
            self._take()

    def _take(self) -> None:
        try:
            for counter in self._counters:
                counter.sample()
        except (OSError, ValueError):
            self._failed = True

    def _total(self) -> float:
        return sum(counter.joules for counter in self._counters)
