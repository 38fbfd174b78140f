"""Temperature, clocks and power, sampled beside a run by a process of its own.

The sampler imports the standard library alone, stays off the processors that the run is pinned to
where there are others, keeps its samples in memory and hands them over at the end: it never
touches the process that is timed. It ends with the pipe to its standard input, so that it cannot
outlive whoever started it. Times are of CLOCK_MONOTONIC, which both processes share.
"""

import json
import os
import select
import subprocess
import sys
import time
from typing import Any, Dict, List, Optional, Sequence

from . import power
from .board import Board

SLOW_S = 1.0
"""Seconds between readings of temperature, clocks, governor and flags; power is read more often."""
START_S = 20.0
END_S = 20.0
MOST_SAMPLES = 100000
_PROGRAM = (
    "import sys; sys.path.insert(0, sys.argv[1]);"
    "from importlib import import_module;"
    "import_module(sys.argv[2]).sample(*sys.argv[3:])"
)


class Sampler:
    """A running sampler; `stop` returns what it saw."""

    def __init__(self, interval_s: float, avoid: Sequence[int] = (), root: str = "/") -> None:
        place = os.path.abspath(__file__)
        for _ in __name__.split("."):
            place = os.path.dirname(place)
        arguments = [root, str(interval_s), ",".join(str(cpu) for cpu in avoid)]
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _PROGRAM, place, __name__] + arguments,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert self._process.stdout is not None
        # Its start is over before anything is timed.
        ready, _, _ = select.select([self._process.stdout], [], [], START_S)
        if ready:
            self._process.stdout.readline()

    def stop(self) -> Optional[Dict[str, Any]]:
        """End the sampler; return its samples, or None if it failed."""
        try:
            out, _ = self._process.communicate(timeout=END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
            return None
        try:
            readings = json.loads(out.decode())
        except ValueError:
            return None
        return readings if isinstance(readings, dict) else None


def start(interval_s: float, avoid: Sequence[int] = ()) -> Optional[Sampler]:
    """A sampler, or None where none is wanted."""
    return Sampler(interval_s, avoid) if interval_s > 0 else None


def sample(root: str, interval: str, avoid: str) -> None:
    """Sample until the standard input ends, then print it all as JSON; runs as the sampler."""
    interval_s = float(interval)
    _keep_off({int(cpu) for cpu in avoid.split(",") if cpu})
    board, meter = Board(root), power.find(root, interval_s)
    rails = meter.rails if meter else []
    watts: List[List[Optional[float]]] = []
    states: List[Dict[str, Any]] = []
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    following = slow = time.monotonic()
    while len(watts) + len(states) < MOST_SAMPLES:
        if meter is not None:
            watts.append(_watts(meter, rails))
        if time.monotonic() >= slow:
            states.append(look(board))
            slow += SLOW_S
        following = max(following + interval_s, time.monotonic())
        if select.select([0], [], [], max(following - time.monotonic(), 0.0))[0]:
            break
    if meter is not None:
        meter.close()
    readings = {
        "interval_s": interval_s,
        "source": meter.source if meter else None,
        "rails": rails,
        "total": power.total_of(rails, meter.source) if meter else [],
        "watts": watts,
        "states": states,
        "cpu_s": _cpu_seconds(),
    }
    sys.stdout.write(json.dumps(readings))
    sys.stdout.flush()


def look(board: Board) -> Dict[str, Any]:
    """Return what may change during a run and is cheap to read, with the time of the reading."""
    values = {
        "t": time.monotonic(),
        "temperature_c": board.temperature(),
        "mhz": max(board.mhz(), default=None),
        "gpu_mhz": max(board.gpu_mhz().values(), default=None),
        "governor": board.governor(),
        "throttled": board.throttled(),
    }
    return {key: value for key, value in values.items() if value is not None}


def _watts(meter: power.Meter, rails: List[str]) -> List[Optional[float]]:
    """The time in the middle of a reading, and the rails in their order."""
    before = time.monotonic()
    read = meter.watts()
    return [(before + time.monotonic()) / 2] + [read.get(name) for name in rails]


def _keep_off(avoid: Any) -> None:
    """Run on other processors than those, if there are any."""
    if hasattr(os, "sched_setaffinity"):
        others = os.sched_getaffinity(0) - avoid
        if others:
            os.sched_setaffinity(0, others)


def _cpu_seconds() -> float:
    """Processor time of this process and of the programs that it asked."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system
