"""A student of separable blocks is at most 0.6 of its teacher's file in int8 TFLite.

A ResNet-14 for images of 32 x 32 and the same with its blocks replaced (`separable`), both with
random weights, as a graph does not depend on them: written in fp32 and int8 by ktbench's own
exporter, then each operator of each file timed alone, on one thread, as a graph of that operator
(a fifth of 1,000 runs took less). The printed table says which operators gain by int8. Sizes are
the claim; times are those of this processor, and what a depthwise convolution gains is up to the
runtime's kernels.
"""

from __future__ import annotations

import copy
import time
from collections import defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from benchmarks._claim import Outcome
from ktbench import catalogue
from ktbench.data import Dataset
from ktbench.export import Exporter
from ktbench.records import Artifact, Cell, DataSpec, ExportSpec, Item, TrainSpec

BAR = 0.6
NETWORKS = {
    "teacher": Item(name="resnet14"),
    "student": Item(name="blockwise", settings={"of": "T", "network": "resnet14"}),
}


def run() -> Outcome:
    """Print a row per file and kind of operator; judge the int8 files' sizes."""
    sizes: dict[tuple[str, str], int] = {}
    times: dict[tuple[str, str], float] = {}
    each: dict[tuple[str, str, str], float] = {}
    for (network, precision), model in _files().items():
        sizes[network, precision], times[network, precision] = len(model), _microseconds(model)
        print(f"{network} {precision}: {len(model)} bytes, {times[network, precision]:.0f} us")
        for kind, found in sorted(_alone(model).items(), key=lambda item: -sum(item[1])):
            each[network, precision, kind] = float(np.mean(found))
            total = f"{sum(found):6.1f} us of {len(found)}"
            print(f"  {kind:<18} {total}, {np.mean(found):.1f} each")
    size, latency = (
        table["student", "int8"] / table["teacher", "int8"] for table in (sizes, times)
    )
    gained = {
        kind: each[network, "int8", kind] / each[network, "fp32", kind]
        for network, kind in (("teacher", "CONV_2D 3x3"), ("student", "DEPTHWISE_CONV_2D"))
    }
    return Outcome(
        f"{size:.2f} of the bytes, {latency:.2f} of the time; int8 takes "
        f"{gained['CONV_2D 3x3']:.2f} of fp32's time for a dense 3 x 3 convolution and "
        f"{gained['DEPTHWISE_CONV_2D']:.2f} for a depthwise one",
        f"<= {BAR:g} of the bytes",
        size <= BAR,
    )


def _files() -> dict[tuple[str, str], bytes]:
    """The four files, written by the exporter for random images."""
    generator = torch.Generator().manual_seed(0)
    splits = {
        name: (
            torch.randint(0, 256, (64, 3, 32, 32), generator=generator).to(torch.uint8),
            torch.randint(0, 10, (64,), generator=generator),
        )
        for name in ("train", "validation", "test")
    }
    spec = DataSpec(source="digits")
    dataset = Dataset(spec, tuple("abcdefghij"), splits)
    files = {}
    with TemporaryDirectory(prefix="ktbench-") as place, _exporter(dataset, place) as exporter:
        for name, item in NETWORKS.items():
            torch.manual_seed(0)
            network = catalogue.build_student(
                item.name, item.settings, num_classes=10, in_channels=3
            )
            with torch.no_grad():  # running statistics of data
                for _ in range(20):
                    network(dataset.inputs(dataset.raw("train")))
            cell = Cell(
                data=spec, student=item, method=Item(name="none"), seed=0, train=TrainSpec(epochs=1)
            )
            for precision in ("fp32", "int8"):
                asked = ExportSpec(format="tflite", precision=precision)
                done = exporter.export(network.eval(), cell, asked)
                if not isinstance(done, Artifact):
                    raise RuntimeError(done.reason)
                files[name, precision] = Path(place, done.path).read_bytes()
    return files


def _exporter(dataset: Dataset, place: str) -> Exporter:
    return Exporter(dataset, Path(place), Path(place))


def _alone(model: bytes) -> dict[str, list[float]]:
    """Microseconds of every operator in a graph of its own, by kind."""
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.tools import flatbuffer_utils

    names = {code: name for name, code in vars(schema.BuiltinOperator).items()}
    graph = flatbuffer_utils.read_model_from_bytearray(bytearray(model))
    part = graph.subgraphs[0]
    found: dict[str, list[float]] = defaultdict(list)
    for operator in part.operators:
        kind = names[graph.operatorCodes[operator.opcodeIndex].builtinCode]
        if kind == "CONV_2D":
            kind += " {1}x{2}".format(*part.tensors[operator.inputs[1]].shape)
        one = copy.copy(graph)
        one.subgraphs = [_only(graph, part, operator)]
        one.signatureDefs = one.metadata = None
        found[kind].append(_microseconds(flatbuffer_utils.convert_object_to_bytearray(one)))
    return found


def _only(graph: Any, part: Any, operator: Any) -> Any:
    """A subgraph of one operator, whose inputs that are no constants are the graph's."""
    alone = copy.copy(part)
    alone.operators = [operator]
    alone.inputs = [
        number
        for number in dict.fromkeys(operator.inputs)
        if number >= 0 and graph.buffers[part.tensors[number].buffer].data is None
    ]
    alone.outputs = list(operator.outputs)
    return alone


def _microseconds(model: bytes | bytearray, runs: int = 1000) -> float:
    """Time of one run on one thread: a fifth of the runs took less, whatever else goes on here."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=bytes(model), num_threads=1)
    interpreter.allocate_tensors()
    generator = np.random.default_rng(0)
    for source in interpreter.get_input_details():
        values = generator.integers(-100, 100, source["shape"])
        interpreter.set_tensor(source["index"], values.astype(source["dtype"]))
    invoke, times = interpreter._interpreter.Invoke, []
    for _ in range(runs):
        began = time.perf_counter()
        invoke()
        times.append(time.perf_counter() - began)
    return 1e6 * sorted(times)[runs // 5]
