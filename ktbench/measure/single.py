"""Measures any model file on its own, ours or not."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ktbench.measure.budget import Budget
from ktbench.measure.job import Job
from ktbench.measure.run import Progress, measure
from ktbench.records import (
    DeviceSpec,
    ExportSpec,
    Failure,
    Format,
    KtbenchError,
    Measurement,
    Precision,
)

_FORMATS: dict[str, Format] = {".onnx": "onnx", ".tflite": "tflite"}


def measure_file(
    path: Path,
    device: DeviceSpec,
    folder: Path,
    *,
    progress: Progress | None = None,
    budget: Budget | None = None,
) -> list[Measurement]:
    """Measure a model on fixed random inputs, once per thread count of the device.

    Free axes are 1. Raw samples go to `measurements/` below the folder. KtbenchError where the
    file is no model, or the device cannot run it.
    """
    form = _FORMATS.get(path.suffix.lower())
    if form is None:
        raise KtbenchError(f"{path}: not a model: name a .onnx or .tflite file")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise KtbenchError(f"{path}: cannot read the model: {error.strerror}") from error
    digest = hashlib.sha256(content).hexdigest()[:16]
    precision = _onnx_precision(path) if form == "onnx" else _tflite_precision(path)
    export = ExportSpec(format=form, precision=precision)
    job = Job(path=path, export=export, graph_key=digest, cell_key="", digest=digest)
    found = []
    for result in measure(device, [job], folder, progress=progress, budget=budget):
        if isinstance(result, Failure):
            raise KtbenchError(f"{path.name} on {device.name}: {result.reason}")
        found.append(result)
    return found


def _onnx_precision(path: Path) -> Precision:
    """int8 where the graph quantises, fp16 where weights are half floats, else fp32."""
    import onnx

    try:
        graph = onnx.load(path, load_external_data=False).graph
    except Exception as error:  # protobuf's own errors have no common class
        raise KtbenchError(f"{path}: not an ONNX model") from error
    if any("Quantize" in node.op_type or "Integer" in node.op_type for node in graph.node):
        return "int8"
    kinds = {tensor.data_type for tensor in graph.initializer}
    return "fp16" if onnx.TensorProto.FLOAT16 in kinds else "fp32"


def _tflite_precision(path: Path) -> Precision:
    """int8 where a tensor is one, fp16 where weights are half floats, else fp32."""
    from ai_edge_litert.interpreter import Interpreter

    try:
        details = Interpreter(model_path=str(path)).get_tensor_details()
    except (ValueError, RuntimeError) as error:
        raise KtbenchError(f"{path}: not a TFLite model") from error
    kinds = {entry["dtype"].__name__ for entry in details}
    return "int8" if "int8" in kinds else "fp16" if "float16" in kinds else "fp32"
