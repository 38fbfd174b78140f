"""Energy of a piece of work: read from the processor (RAPL) where possible, else estimated.

RAPL counts microjoules per package and wraps around at `max_energy_range_uj`
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
"""Seconds between two readings: a counter wraps around after minutes at the earliest."""
IDLE_S = 1.0
"""Seconds for which the idle machine is measured before the work begins."""
_COUNTED = ("package", "dram")
"""Domains to add up: a package includes its core and uncore, but not memory; psys is all."""


@dataclass(frozen=True, slots=True)
class Energy:
    """Energy of a piece of work."""

    joules: float
    """Energy of all packages over the work's time; where measured, idle consumption included."""
    origin: Literal["measured", "estimated"]
    idle_joules: float | None = None
    """Energy that the same time would have taken without the work, by the power right before it;
    None for an estimate."""
    watts: float | None = None
    """Assumed power of a busy core; None where measured."""


def estimated(cpu_seconds: float, watts: float) -> Energy:
    """Multiply CPU-seconds by the watts of one busy core; idle consumption is left out."""
    return Energy(cpu_seconds * watts, "estimated", watts=watts)


@dataclass
class Counter:
    """One RAPL domain, as a sum that never wraps around."""

    folder: Path
    joules: float = 0.0
    """Energy since the counter was made."""
    _last: int = field(init=False)
    _range: int = field(init=False)

    def __post_init__(self) -> None:
        self._range = int((self.folder / "max_energy_range_uj").read_text())
        self._last = self._now()

    def sample(self) -> None:
        """Add the energy since the last sample, during which the domain wraps at most once."""
        now = self._now()
        used = now - self._last
        self.joules += (used if used >= 0 else used + self._range) / 1e6
        self._last = now

    def _now(self) -> int:
        return int((self.folder / "energy_uj").read_text())


def counters(powercap: Path = POWERCAP) -> list[Counter]:
    """Return the domains that this process may read; none without RAPL or the permission."""
    readable = []
    try:
        for folder in sorted(powercap.glob("intel-rapl:*")):
            name = (folder / "name").read_text().strip()
            if name.startswith(_COUNTED):
                readable.append(Counter(folder))
    except (OSError, ValueError):
        return []  # half of a machine's energy is no measurement
    return readable


class Meter:
    """Measures the energy of a `with` block where RAPL can be read; a thread takes samples."""

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
        """The measured energy, after the block; None where nothing could be read."""

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
