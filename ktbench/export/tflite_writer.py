"""The TFLite writer: NHWC; a process of its own (`litert_worker.py`) converts and runs."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ktbench.export.deployed_network import Deployed, Layout
from ktbench.export.litert import LiteRT
from ktbench.export.lowering import pool_evenly
from ktbench.export.quiet_output import quiet
from ktbench.export.writer import Floats, Images
from ktbench.records import ExportSpec


class _Named(nn.Module):
    """A wrapper that gives the output its name in the file."""

    def __init__(self, network: Deployed) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return {"logits": self.network(image)}


class TfliteWriter:
    """See `Writer`."""

    layout: Layout = "NHWC"
    suffix = ".tflite"

    def __init__(self) -> None:
        self._litert = LiteRT()

    def convert(self, network: Deployed, spec: ExportSpec) -> bytes:
        """See `Writer.convert`."""
        image = network.example(1)
        buffer = io.BytesIO()
        with quiet():
            program = torch.export.export(_Named(network), (), {"image": image})
            pool_evenly(program)
            torch.export.save(program, buffer)
        dynamic = spec.batch == "dynamic"
        model: bytes = self._litert.ask("convert", buffer.getvalue(), tuple(image.shape), dynamic)
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

    def lower(self, model: bytes, spec: ExportSpec, calibration: Images) -> bytes:
        """See `Writer.lower`."""
        if spec.precision == "fp32":
            return model
        lowered: bytes = self._litert.ask("lower", model, spec.precision, calibration)
        return lowered

    def run(self, model: bytes, images: Images) -> Floats:
        """See `Writer.run`."""
        logits: Floats = self._litert.ask("run", model, images)
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
