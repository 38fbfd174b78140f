"""Runs ONNX graphs over samples, and looks at the values of their inner tensors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, RuntimeException

from ktbench.export.ranges import BINS, Histogram
from ktbench.export.writer import CHUNK, Arrays

RUN_ERRORS = (Fail, InvalidArgument, RuntimeException)
Feed = dict[str, NDArray[Any]]


def opened(model: bytes) -> Any:
    """Return a session with one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def feeds(model: onnx.ModelProto, samples: Arrays, step: int) -> Iterator[Feed]:
    """Yield samples by input name, in the graph's types and in runs of `step`."""
    columns = {
        value.name: samples[value.name].astype(
            onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        )
        for value in model.graph.input
    }
    for start in range(0, len(next(iter(samples.values()))), step):
        yield {name: column[start : start + step] for name, column in columns.items()}


def with_batch(model: onnx.ModelProto, size: int | None) -> onnx.ModelProto:
    """Return the same graph with this batch size, or a free one."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    del changed.graph.value_info[:]
    for value in (*changed.graph.input, *changed.graph.output):
        batch = value.type.tensor_type.shape.dim[0]
        batch.Clear()
        if size is None:
            batch.dim_param = "batch"
        else:
            batch.dim_value = size
    return changed


def histograms(model: onnx.ModelProto, samples: Arrays) -> dict[str, Histogram]:
    """Return the values of each inner float tensor of a graph over all samples, by its name."""
    try:
        return _histograms(with_batch(model, None), samples, CHUNK)
    except RUN_ERRORS:
        return _histograms(model, samples, 1)


def _histograms(model: onnx.ModelProto, samples: Arrays, step: int) -> dict[str, Histogram]:
    """Run twice: first for the ends of each histogram, then for its counts."""
    told = onnx.shape_inference.infer_shapes(model).graph.value_info
    inner = [value for value in told if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT]
    names = [value.name for value in inner]
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = opened(watched.SerializeToString())
    ends = {name: (np.inf, -np.inf) for name in names}
    for feed in feeds(model, samples, step):
        for name, values in zip(names, session.run(names, feed), strict=True):
            low, high = ends[name]
            ends[name] = (min(low, float(values.min())), max(high, float(values.max())))
    counts = {name: np.zeros(BINS, np.int64) for name in names}
    for feed in feeds(model, samples, step):
        for name, values in zip(names, session.run(names, feed), strict=True):
            if ends[name][0] < ends[name][1]:
                counts[name] += np.histogram(values, BINS, ends[name])[0]
    return {name: Histogram(*ends[name], counts[name]) for name in names}
