"""Sampling power, clocks and temperature beside a run moves its median by at most 1 %."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path

from benchmarks._claim import Outcome
from benchmarks.local_latency import write_model
from devices.agent import bench, telemetry
from devices.agent.board import Board
from devices.agent.runtimes import Options, onnxruntime_
from ktbench.measure.budget import FULL

BAR = 0.01
ROUNDS = 12
WINDOW_S = 1.0
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
"""As many sensors as a Jetson has, so that the sampler has its usual work."""


def _write_board(root: Path) -> None:
    for name, text in _FILES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def _median_ms(calls: list[bench.Call]) -> float:
    found = bench.time_steadily(calls, 36, WINDOW_S, 10**6)
    samples: list[int] = found["samples"]
    return statistics.median(samples) / 1e6


def run() -> Outcome:
    """Windows of one process with and without a sampler in turns, the order changing."""
    alone: list[float] = []
    beside: list[float] = []
    cost: list[float] = []
    with tempfile.TemporaryDirectory() as name:
        root = Path(name, "board")
        _write_board(root)
        model = Path(name, "model.onnx")
        write_model(model)
        cpus = Board().choose_cpus(1)
        before = os.sched_getaffinity(0)
        session = onnxruntime_.load(str(model), Options(1, "cpu", None, None))
        task = {"inputs": None}
        _, calls = bench.prepare(session, task, name)
        bench.warm_up(calls, 10, 1.0)
        for number in range(2 * ROUNDS):
            with_sampler = number % 4 in (0, 3)  # a drift hits both alike
            os.sched_setaffinity(0, before)
            begin = time.monotonic()
            sampler = telemetry.Sampler(FULL.telemetry_s, cpus, str(root)) if with_sampler else None
            os.sched_setaffinity(0, cpus)
            (beside if with_sampler else alone).append(_median_ms(calls))
            found = sampler.stop() if sampler else None
            if found:
                cost.append(found["cpu_s"] / (time.monotonic() - begin))
        os.sched_setaffinity(0, before)
    one, other = statistics.median(beside), statistics.median(alone)
    print(f"alone    {other:.4f} ms (median of {len(alone)} windows of {WINDOW_S:g} s)")
    print(f"sampled  {one:.4f} ms, every {FULL.telemetry_s:g} s")
    print(f"sampler  {statistics.median(cost):.1%} of a processor, its start included")
    ratio = one / other
    return Outcome(f"{ratio - 1:+.2%} of the median", f"within {BAR:.0%}", abs(ratio - 1) <= BAR)
