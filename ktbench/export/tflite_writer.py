"""The TFLite writer: NHWC; a process of its own (`litert_worker.py`) converts and runs."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import operator
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.fx import Graph, Node

from ktbench.export.deployed_network import Deployed, Layout
from ktbench.export.litert_worker import layer_kinds
from ktbench.export.quiet_output import quiet
from ktbench.export.ranges import BINS, Histogram
from ktbench.export.writer import WHOLE, Arrays, ExportError, Floats, GraphLayer, Lowering
from ktbench.records import ExportSpec

TRACED_BATCH = 7
"""Batch with which a network that reads whole numbers is converted before its batch is set free.

With a batch of one the converter drops it from masks and averages over it, which no other batch
would bear.
"""


class _Named(nn.Module):
    """A wrapper that gives the output its name in the file."""

    def __init__(self, network: Deployed) -> None:
        super().__init__()
        self.network = network

    def forward(self, **samples: Tensor) -> dict[str, Tensor]:
        return {"logits": self.network(*samples.values())}


class TfliteWriter:
    """See `Writer`."""

    layout: Layout = "NHWC"
    suffix = ".tflite"

    def __init__(self) -> None:
        self._litert = LiteRT()

    def convert(self, network: Deployed, spec: ExportSpec) -> bytes:
        """See `Writer.convert`."""
        dynamic = spec.batch == "dynamic"
        whole = any(each.below is not None for each in network.inputs)
        examples = network.example(TRACED_BATCH if dynamic and whole else 1)
        samples = {each.name: sample for each, sample in zip(network.inputs, examples, strict=True)}
        buffer = io.BytesIO()
        with quiet():
            program = torch.export.export(_Named(network), (), samples)
            pool_evenly(program)
            torch.export.save(program, buffer)
        blank = {name: sample.numpy() for name, sample in samples.items()}
        model: bytes = self._litert.ask("convert", buffer.getvalue(), blank, dynamic)
        return model

    def constants(self, model: bytes) -> dict[str, Floats] | None:
        """See `Writer.constants`; they are named by the numbers of their buffers."""
        return {name: data.view(np.float32) for name, data in _buffers(model)}

    def fill(self, model: bytes, values: Mapping[str, Floats]) -> bytes:
        """See `Writer.fill`; the file's other bytes stay as they are."""
        filled = bytearray(model)
        for name, data in _buffers(filled):
            if name in values:
                data[:] = np.ascontiguousarray(values[name], np.float32).reshape(-1).view(np.uint8)
        return bytes(filled)

    def layers(self, model: bytes) -> list[GraphLayer]:
        """See `Writer.layers`; weights of 8 bits make a layer an integer's, whatever it reads."""
        from ai_edge_litert import schema_py_generated as schema

        graph = schema.Model.GetRootAs(model, 0)
        part, integers = graph.Subgraphs(0), (schema.TensorType.INT8, schema.TensorType.INT4)
        found = []
        for node in map(part.Operators, range(part.OperatorsLength())):
            code = graph.OperatorCodes(node.OpcodeIndex()).BuiltinCode()
            if code in layer_kinds(schema):
                weights = part.Tensors(node.Inputs(1))
                if graph.Buffers(weights.Buffer()).DataLength():
                    quantised = weights.Type() in integers
                    found.append(GraphLayer(str(weights.Buffer()), quantised))
        return found

    def histograms(self, model: bytes, calibration: Arrays) -> dict[str, Histogram]:
        """See `Writer.histograms`."""
        told: dict[str, tuple[float, float, NDArray[np.int64]]]
        told = self._litert.ask("histograms", model, calibration, BINS)
        return {name: Histogram(*values) for name, values in told.items()}

    def lower(
        self, model: bytes, spec: ExportSpec, calibration: Arrays | None, how: Lowering = WHOLE
    ) -> bytes:
        """See `Writer.lower`."""
        if spec.precision == "fp32":
            return model
        lowered: bytes = self._litert.ask(
            "lower", model, spec.precision, calibration, dataclasses.asdict(how)
        )
        return lowered

    def run(self, model: bytes, samples: Arrays) -> Floats:
        """See `Writer.run`."""
        logits: Floats = self._litert.ask("run", model, samples)
        return logits

    def runtime(self) -> str:
        """See `Writer.runtime`."""
        return f"ai-edge-litert {version('ai-edge-litert')}"

    def versions(self) -> dict[str, str]:
        """See `Writer.versions`."""
        names = ("torch", "litert-torch", "ai-edge-quantizer", "ai-edge-litert")
        return {name: version(name) for name in names}

    def close(self) -> None:
        """See `Writer.close`: ends the LiteRT process."""
        self._litert.close()


def _buffers(model: bytes | bytearray) -> Iterator[tuple[str, Any]]:
    """Yield each float32 constant's number and its bytes, as a view of the file."""
    from ai_edge_litert import schema_py_generated as schema

    graph = schema.Model.GetRootAs(model, 0)
    for number in _float_buffers(graph, schema.TensorType.FLOAT32):
        buffer = graph.Buffers(number)
        if buffer.DataLength():
            yield str(number), buffer.DataAsNumpy()


def _float_buffers(graph: Any, float32: int) -> list[int]:
    parts = [graph.Subgraphs(i) for i in range(graph.SubgraphsLength())]
    tensors = [part.Tensors(i) for part in parts for i in range(part.TensorsLength())]
    return sorted({t.Buffer() for t in tensors if t.Type() == float32})


# ---------------------------------------------------------------- the LiteRT process

PROGRAM = Path(__file__).with_name("litert_worker.py")


class LiteRT:
    """A client of the LiteRT process, which is started when first needed and replaced if it dies.

    The process has one job at a time; its terminal output goes to a log of its own.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._log: Any = None

    def start(self) -> None:
        """Start the process unless it runs; it loads its packages when given a job."""
        if self._process is not None:
            return
        ours, theirs = socket.socketpair()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        # -P: the program's own folder must not shadow packages of the same names
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(PROGRAM), str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "TQDM_DISABLE": "1"},
            start_new_session=True,  # Ctrl-C is for the parent, which hangs up when it ends
        )
        theirs.close()
        self._connection = Connection(ours.detach())

    def ask(self, job: str, *arguments: Any) -> Any:
        """Return a job's result; `ExportError` with one line if it fails or the process dies."""
        self.start()
        assert self._connection is not None
        try:
            self._connection.send((job, arguments))
            done, result = self._connection.recv()
        except (EOFError, ConnectionError) as error:
            raise ExportError(self._obituary()) from error
        if not done:
            raise ExportError(str(result))
        return result

    def _obituary(self) -> str:
        assert self._process is not None
        code = self._process.wait()
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines() or [""]
        self.close()
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with code {code}"
        last = f": {lines[-1].strip()}".rstrip(": ")
        return f"the LiteRT process was ended {how}{last}"

    def close(self) -> None:
        """End the process by a message, as a fork of this process may hold the line open."""
        if self._connection is not None:
            with contextlib.suppress(OSError):
                self._connection.send(None)
            self._connection.close()
        if self._process is not None:
            self._process.wait()
        if self._log is not None:
            self._log.close()
        self._process = self._connection = self._log = None

    def __getstate__(self) -> dict[str, Any]:
        """A copy in another process starts its own."""
        return {"_process": None, "_connection": None, "_log": None}

    def __del__(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(Exception):  # as the interpreter ends, anything may be gone
                self.close()


# ---------------------------------------------------------------- rewrites of the traced graph

_ATEN = torch.ops.aten
_AVERAGE, _MAX = _ATEN.adaptive_avg_pool2d.default, _ATEN.adaptive_max_pool2d.default


def pool_evenly(program: torch.export.ExportedProgram) -> None:
    """Write adaptive pooling over equal windows as pooling, over the whole map as a reduction.

    Of the adaptive average the TFLite converter writes an index for every element, which no other
    batch than that of the trace fits; the adaptive maximum it does not know.
    """
    graph = program.graph_module.graph
    if not any(node.target in (_AVERAGE, _MAX) for node in graph.nodes):
        return
    for node in list(graph.find_nodes(op="call_function", target=_AVERAGE)):
        if (window := _window(node)) is not None:
            _replace(graph, node, _pooled(graph, node, window, _ATEN.avg_pool2d.default))
    for node in list(graph.find_nodes(op="call_function", target=_MAX)):
        for user in [user for user in node.users if not user.users]:
            graph.erase_node(user)
        reads = list(node.users)  # the maxima, and where they were
        if (window := _window(node)) is None or any(
            user.target is not operator.getitem or user.args[1] != 0 for user in reads
        ):
            continue
        for user in reads:
            _replace(graph, user, _pooled(graph, node, window, _ATEN.max_pool2d.default))
        graph.erase_node(node)
    program.graph_module.recompile()


def _window(node: Node) -> list[int] | None:
    """The height and width of each window; None where they differ from each other in size."""
    source: Any = node.args[0]
    size: Any = node.args[1]
    height, width = source.meta["val"].shape[-2:]
    rows, columns = size
    return None if height % rows or width % columns else [height // rows, width // columns]


def _pooled(graph: Graph, node: Node, window: list[int], pool: Any) -> Node:
    """The maxima or averages of a map's windows."""
    source, size = node.args[:2]
    with graph.inserting_before(node):
        if list(size) != [1, 1]:  # type: ignore[arg-type]
            return graph.call_function(pool, (source, window, window))
        whole = _ATEN.mean.dim if node.target is _AVERAGE else _ATEN.amax.default
        return graph.call_function(whole, (source, [-1, -2], True))


def _replace(graph: Graph, old: Node, new: Node) -> None:
    new.meta = dict(old.meta)
    old.replace_all_uses_with(new)
    graph.erase_node(old)
