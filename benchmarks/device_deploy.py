"""Over a link of 0.1 s, 50 artifacts on one board take a third of 50 single calls, or less."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks._claim import Outcome
from benchmarks._link import slow_board
from ktbench.measure import Budget, Job, measure
from ktbench.records import DeviceSpec, ExportSpec, Failure

BAR = 3.0
ROUND_TRIP_S = 0.1
ARTIFACTS = 50
SINGLE = 10
"""Single calls that are timed; one takes as long as any other."""
_BUDGET = Budget(runs=64, seconds=0.0, warm_runs=10, warm_s=0.0, limit_s=60.0)


def _write_model(path: Path, seed: int) -> Path:
    """A linear classifier: what is to be measured is the way to the board."""
    values = np.random.RandomState(seed).standard_normal((256, 10)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 256])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 10])],
        [numpy_helper.from_array(values, "w")],
    )
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), path)
    return path


def _seconds(device: DeviceSpec, jobs: list[Job], folder: Path) -> tuple[float, float]:
    """Until the first figure, and until the last."""
    start, first = time.monotonic(), 0.0
    for found in measure(device, jobs, folder, budget=_BUDGET):
        if isinstance(found, Failure):
            raise RuntimeError(found.reason)
        first = first or time.monotonic() - start
    return first, time.monotonic() - start


def run() -> Outcome:
    """The same repeats of the same models, one call per model and one call for all."""
    device = DeviceSpec(profile="ssh", name="board", host="board", python=sys.executable)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        jobs = [
            Job(_write_model(folder / f"{n}.onnx", n), ExportSpec(format="onnx"), f"g{n}", "", "d")
            for n in range(ARTIFACTS + 1)
        ]
        with slow_board(folder, ROUND_TRIP_S) as relay:
            first, _ = _seconds(device, jobs[-1:], folder)
            sent, begun = relay.sent, time.monotonic()
            for job in jobs[:SINGLE]:
                _seconds(device, [job], folder)
            single = (time.monotonic() - begun) / SINGLE * ARTIFACTS
            alone = (relay.sent - sent) / SINGLE * ARTIFACTS
            sent = relay.sent
            _, together = _seconds(device, jobs[:ARTIFACTS], folder)
            shared = relay.sent - sent
    print(f"first figure on a board that has nothing: {first:.1f} s")
    print(f"{ARTIFACTS} single calls  {single:6.1f} s, {alone / 1e6:.2f} MB sent ({SINGLE} timed)")
    print(f"one deployment   {together:6.1f} s, {shared / 1e6:.2f} MB sent")
    ratio = single / together
    return Outcome(f"{ratio:.2f} times as fast", f"at least {BAR:.0f}", ratio >= BAR)
