"""Measurement of model files on their own, whoever wrote them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from ktbench.measure.job import Job
from ktbench.measure.repeats import Progress, measure
from ktbench.measure.time_budget import Budget
from ktbench.records import (
    DeviceSpec,
    ExportSpec,
    Failure,
    Format,
    KtbenchError,
    Measurement,
    Precision,
)
from ktbench.system import extras
from ktbench.system.files import read_regular

_FORMATS: dict[str, Format] = {".onnx": "onnx", ".tflite": "tflite"}


def measure_files(
    paths: Sequence[Path],
    device: DeviceSpec,
    folder: Path,
    *,
    progress: Progress | None = None,
    budget: Budget | None = None,
) -> Iterator[tuple[Path, Measurement | Failure]]:
    """Measure models on fixed random inputs, once per thread count of the device, in turns.

    Free axes are 1, but for the batch of the offline scenario. Raw samples go to `measurements/`
    below the folder. KtbenchError where a file is no model; what the device cannot run is a
    failure of its own.
    """
    jobs = [_job(path) for path in paths]
    rows = [path for path in paths for _ in device.threads]
    yield from zip(
        rows, measure(device, jobs, folder, progress=progress, budget=budget), strict=True
    )


def measure_file(
    path: Path,
    device: DeviceSpec,
    folder: Path,
    *,
    progress: Progress | None = None,
    budget: Budget | None = None,
) -> list[Measurement]:
    """Measure one model as `measure_files` does; KtbenchError if the device cannot run it."""
    measurements = []
    for _, outcome in measure_files([path], device, folder, progress=progress, budget=budget):
        if isinstance(outcome, Failure):
            raise KtbenchError(f"{path.name} on {device.name}: {outcome.reason}")
        measurements.append(outcome)
    return measurements


def _job(path: Path) -> Job:
    form = _FORMATS.get(path.suffix.lower())
    if form is None:
        raise KtbenchError(f"{path}: not a model: name a .onnx or .tflite file")
    try:
        content = read_regular(path)
    except OSError as error:
        raise KtbenchError(f"{path}: cannot read the model: {error.strerror}") from error
    digest = hashlib.sha256(content).hexdigest()[:16]
    export = _onnx_export(path) if form == "onnx" else _tflite_export(path)
    return Job(path=path, export=export, graph_key=digest, cell_key="", digest=digest)


def _onnx_export(path: Path) -> ExportSpec:
    """Describe an ONNX file: int8 if it quantises, fp16 if weights are half floats, else fp32."""
    extras.require("onnx", f"{path}: an ONNX model")
    import onnx

    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's own errors have no common class
        raise KtbenchError(f"{path}: not an ONNX model") from error
    half = any(t.data_type == onnx.TensorProto.FLOAT16 for t in model.graph.initializer)
    quantised = any("Quantize" in n.op_type or "Integer" in n.op_type for n in model.graph.node)
    opsets = [entry.version for entry in model.opset_import if not entry.domain]
    weights = {tensor.name for tensor in model.graph.initializer}  # inputs, too, in old files
    inputs = [entry for entry in model.graph.input if entry.name not in weights]
    axes = inputs[0].type.tensor_type.shape.dim if inputs else ()
    return ExportSpec(
        format="onnx",
        batch="1" if not axes or axes[0].HasField("dim_value") else "dynamic",
        precision="int8" if quantised else "fp16" if half else "fp32",
        opset=min(max(opsets[0] if opsets else 18, 13), 23),  # the range that a label can name
    )


def _tflite_export(path: Path) -> ExportSpec:
    """Describe a TFLite file: int8 or fp16 if it has such a tensor, else fp32."""
    extras.require("tflite", f"{path}: a TFLite model")
    from ai_edge_litert.interpreter import Interpreter

    try:
        model = Interpreter(model_path=str(path))
        details, inputs = model.get_tensor_details(), model.get_input_details()
    except (ValueError, RuntimeError) as error:
        raise KtbenchError(f"{path}: not a TFLite model") from error
    kinds = {entry["dtype"].__name__ for entry in details}
    precision: Precision = "int8" if "int8" in kinds else "fp16" if "float16" in kinds else "fp32"
    free = any(len(i["shape_signature"]) and i["shape_signature"][0] < 0 for i in inputs[:1])
    return ExportSpec(format="tflite", precision=precision, batch="dynamic" if free else "1")
