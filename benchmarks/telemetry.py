"""Sampling power, clocks and temperature beside a run moves its median by at most 1 %."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path

from benchmarks._claim import Outcome
from benchmarks._paired import compare
from benchmarks.local_latency import write_model
from ktbench.devices.agent import bench, telemetry
from ktbench.devices.agent.board import Board
from ktbench.devices.agent.runtimes import Options, onnxruntime_
from ktbench.measure.time_budget import FULL

BAR = 0.01
PAIRS = 40
WINDOW_S = 0.6
WARM_S = 0.05
_CHIP = "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3/"
_FILES = {
    **{f"{_CHIP}in{n}_label": f"{name}\n" for n, name in enumerate(("VDD_IN", "B", "C"), 1)},
    **{f"{_CHIP}{kind}{n}_input": "5000\n" for kind in ("in", "curr") for n in (1, 2, 3)},
    **{f"sys/class/thermal/thermal_zone{n}/{k}": "50000\n" for n in range(9) for k in ("temp",)},
    **{f"sys/devices/system/cpu/cpu{n}/cpufreq/scaling_cur_freq": "1500000\n" for n in range(6)},
    **{
        f"sys/devices/system/cpu/cpu{n}/cpufreq/scaling_governor": "performance\n" for n in range(6)
    },
}
"""Simulated sensors, as many as a Jetson has, so that the sampler has its usual work."""


def _write_board(root: Path) -> None:
    for name, text in _FILES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def _median_ms(calls: list[bench.Call]) -> float:
    bench.warm_up(calls, 10, WARM_S)  # what the sampler's start has displaced is no part of it
    samples: list[int] = bench.time_steadily(calls, 36, WINDOW_S, 10**6)["samples"]
    return statistics.median(samples) / 1e6


class _Windows:
    """One process that is timed alone and beside a sampler, as often as asked."""

    def __init__(self, calls: list[bench.Call], cpus: list[int], root: Path) -> None:
        self._calls, self._cpus, self._root = calls, cpus, str(root)
        self._everywhere = os.sched_getaffinity(0)
        self.taken: dict[str, list[float]] = {"alone": [], "beside": []}
        self.cost: list[float] = []

    def alone(self) -> float:
        """The median of a window without a sampler."""
        return self._window("alone")

    def beside(self) -> float:
        """The median of a window with one, which is started before and ended after it."""
        begin = time.monotonic()
        sampler = telemetry.Sampler(FULL.telemetry_s, self._cpus, self._root)
        median = self._window("beside")
        found = sampler.stop()
        if found is None:
            raise RuntimeError("the sampler failed")
        self.cost.append(found["cpu_s"] / (time.monotonic() - begin))
        return median

    def _window(self, name: str) -> float:
        os.sched_setaffinity(0, self._cpus)
        try:
            self.taken[name].append(_median_ms(self._calls))
        finally:
            os.sched_setaffinity(0, self._everywhere)
        return self.taken[name][-1]


def run() -> Outcome:
    """Windows of one process with and without a sampler in turns, the order changing."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name, "board")
        _write_board(root)
        model = Path(name, "model.onnx")
        write_model(model)
        session = onnxruntime_.load(str(model), Options(1, "cpu", None, None))
        _, calls = bench.prepare(session, {"inputs": None}, name)
        windows = _Windows(calls, Board().choose_cpus(1), root)
        windows.alone()
        windows.taken["alone"].clear()
        found = compare(windows.beside, windows.alone, PAIRS)
    for side, medians in windows.taken.items():
        middle = statistics.median(medians)
        print(f"{side:<7} {middle:.4f} ms (median of {PAIRS} windows of {WINDOW_S:g} s)")
    each, cost = f"every {FULL.telemetry_s:g} s", statistics.median(windows.cost)
    print(f"sampler {cost:.1%} of a processor, a reading {each}, its start included")
    return found.outcome("the median", BAR)
