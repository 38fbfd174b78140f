"""Over a link of 0.1 s, 50 artifacts on one board take a third of 50 single calls, or less."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks._claim import Outcome
from benchmarks._link import slow_board

BAR = 3.0
ROUND_TRIP_S = 0.1
ARTIFACTS = 50
SINGLE = 10
"""Single calls that are timed; one takes as long as any other."""


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


def _call(models: Sequence[Path]) -> float:
    """Seconds of one command, as a user gives it, of one repeat per model."""
    words = ["measure", *map(str, models), "--device", "board", "--python", sys.executable]
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "ktbench", *words, "--repeats", "1", "--json"],
        capture_output=True,
        text=True,
    )
    seconds = time.monotonic() - start
    found = json.loads(done.stdout or "[]")
    for each in found if isinstance(found, list) else [found]:
        if "p50_ms" not in each:
            raise RuntimeError(done.stderr)
    return seconds


def run() -> Outcome:
    """The same models in a command each and in one for all; the board's link is the slow part."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models = [_write_model(folder / f"{n}.onnx", n) for n in range(ARTIFACTS + 1)]
        with slow_board(folder, ROUND_TRIP_S) as relay:
            first, fresh = _call(models[-1:]), relay.sent
            begun = time.monotonic()
            for model in models[:SINGLE]:
                _call([model])
            single = (time.monotonic() - begun) / SINGLE * ARTIFACTS
            alone, before = (relay.sent - fresh) / SINGLE * ARTIFACTS, relay.sent
            together = _call(models[:ARTIFACTS])
            shared = relay.sent - before
    print(
        f"first figure on a board that has nothing: {first:.1f} s, {fresh / 1e6:.2f} MB sent,"
        f" over a link of {ROUND_TRIP_S:g} s there and back"
    )
    print(f"{ARTIFACTS} single calls  {single:6.1f} s, {alone / 1e6:.2f} MB sent ({SINGLE} timed)")
    print(f"one deployment   {together:6.1f} s, {shared / 1e6:.2f} MB sent")
    ratio = single / together
    return Outcome(f"{ratio:.2f} times as fast", f"at least {BAR:.0f}", ratio >= BAR)
