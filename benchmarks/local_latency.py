"""The local agent's median latency is within 3 % of a bare loop over the same session."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks._claim import Outcome
from benchmarks._paired import compare
from ktbench.devices.agent.board import Board
from ktbench.measure import Budget, Job, measure
from ktbench.records import DeviceSpec, ExportSpec, Failure

BAR = 0.03
PAIRS = 20
RUNS = 1500
WARM_S = 0.5

_BARE = """
import gc, json, os, sys, time
import numpy as np
os.sched_setaffinity(0, [int(sys.argv[2])])
import onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
feed = {"x": np.random.RandomState(0).random_sample((1, 16, 32, 32)).astype("float32")}
end = time.perf_counter() + float(sys.argv[4])
while time.perf_counter() < end:
    session.run(None, feed)
gc.disable()
samples = []
for _ in range(int(sys.argv[3])):
    start = time.perf_counter_ns()
    session.run(None, feed)
    samples.append(time.perf_counter_ns() - start)
print(json.dumps(samples))
"""


def write_model(path: Path) -> None:
    """Four 3×3 convolutions of 16 channels on 32×32: a student's size, some tenths of a ms."""
    random = np.random.RandomState(0)
    nodes, weights = [], []
    for layer in range(4):
        source, target = "x" if layer == 0 else f"r{layer - 1}", f"c{layer}"
        values = random.standard_normal((16, 16, 3, 3)).astype(np.float32) / 12
        weights.append(numpy_helper.from_array(values, f"w{layer}"))
        conv = helper.make_node("Conv", [source, f"w{layer}"], [target], pads=[1, 1, 1, 1])
        nodes += [conv, helper.make_node("Relu", [target], [f"r{layer}"])]
    shape = [1, 16, 32, 32]
    graph = helper.make_graph(
        nodes,
        "four",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("r3", TensorProto.FLOAT, shape)],
        weights,
    )
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), path)


def _bare_ms(model: Path, cpu: int) -> float:
    arguments = [str(model), str(cpu), str(RUNS), str(WARM_S)]
    done = subprocess.run(
        [sys.executable, "-c", _BARE, *arguments], check=True, stdout=subprocess.PIPE
    )
    samples: list[int] = json.loads(done.stdout)
    return statistics.median(samples) / 1e6


def _agent_ms(model: Path, folder: Path) -> float:
    device = DeviceSpec(profile="local", name="here", repeats=1)
    job = Job(model, ExportSpec(format="onnx"), graph_key="g", cell_key="c", digest="d")
    budget = Budget(runs=RUNS, seconds=0.0, warm_s=WARM_S)
    (found,) = measure(device, [job], folder, budget=budget)
    if isinstance(found, Failure):
        raise RuntimeError(found.reason)
    return found.p50_ms.value


def run() -> Outcome:
    """The two sides in turns, each in a fresh process pinned to the same processor."""
    agent, bare = [], []
    with tempfile.TemporaryDirectory() as name:
        model = Path(name, "model.onnx")
        write_model(model)
        cpu = Board().choose_cpus(1)[0]  # the agent's choice, so that both run on the same one

        def by_agent() -> float:
            agent.append(_agent_ms(model, Path(name)))
            return agent[-1]

        def by_loop() -> float:
            bare.append(_bare_ms(model, cpu))
            return bare[-1]

        found = compare(by_agent, by_loop, PAIRS)
    for side, medians in (("agent", agent), ("bare loop", bare)):
        middle = statistics.median(medians)
        print(f"{side:<10} {middle:.4f} ms (median of {PAIRS} processes' medians), ", end="")
        print(f"{min(medians):.4f} to {max(medians):.4f}")
    return found.outcome("a bare loop", BAR)
