"""The length of a measurement: runs and seconds per repeat."""

from __future__ import annotations

from dataclasses import dataclass

from ktbench.records import DeviceSpec
from ktbench.stats.percentiles import least_count

P99_RUNS = 662
"""Fewest timed runs per process for a 99th percentile (MLPerf LoadGen's minimum)."""
MAX_RUNS = 1_000_000


@dataclass(frozen=True, slots=True)
class Budget:
    """Runs and seconds of one repeat: at least so many of both."""

    runs: int
    """Timed runs; at least 36, which a bound on a 90th percentile takes."""
    seconds: float
    warm_runs: int = 10
    warm_s: float = 1.0
    cool_wait_s: float = 300.0
    """Longest wait for a hot device to cool down before a repeat."""
    limit_s: float = 3600.0
    """Longest time that one repeat may take, without that wait."""
    telemetry_s: float = 0.0
    """Seconds between readings of power beside the run; 0 reads none."""
    idle_s: float = 0.0
    """Seconds for which the idle board's power is read before the model is loaded."""

    def __post_init__(self) -> None:
        if self.runs < least_count(0.9):
            raise ValueError(f"a 90th percentile takes {least_count(0.9)} runs, not {self.runs}")

    @property
    def repeat_s(self) -> float:
        """Longest time that one repeat may take, with the wait for a hot device."""
        return self.limit_s + self.cool_wait_s


QUICK = Budget(runs=64, seconds=0.0, warm_s=0.2, cool_wait_s=60.0, limit_s=600.0)
"""The default: its figures are labelled quick, and have no 99th percentile and no energy."""
FULL = Budget(runs=P99_RUNS, seconds=10.0, telemetry_s=0.2, idle_s=3.0)
SUSTAINED = Budget(runs=P99_RUNS, seconds=600.0, telemetry_s=0.5, idle_s=3.0)
"""Ten minutes without a break, whatever the device's mode."""


def budget_of(device: DeviceSpec) -> Budget:
    """Return the budget of a device's scenario and mode."""
    if device.scenario == "sustained":
        return SUSTAINED
    return FULL if device.mode == "full" else QUICK
