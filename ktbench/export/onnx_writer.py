"""ONNX: one file, NCHW; opset 18 and later by torch's exporter, older opsets by its predecessor."""

from __future__ import annotations

import copy
import io
import tempfile
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.transformers.float16 import convert_float_to_float16

from ktbench.export import activations
from ktbench.export.activations import RUN_ERRORS, Feed, feeds, opened, with_batch
from ktbench.export.deployed_network import Deployed, Layout
from ktbench.export.quiet_output import quiet
from ktbench.export.ranges import Histogram
from ktbench.export.writer import CHUNK, WHOLE, Arrays, Floats, GraphLayer, Lowering
from ktbench.records import ExportSpec

OUTPUT = "logits"
BATCH = 256
"""Samples per run where the batch is dynamic."""
MODERN_OPSET, OLD_IR, IR = 18, 8, 10
"""Boards with opset 15 at most read IR version 8 at most."""


class OnnxWriter:
    """See `Writer`."""

    layout: Layout = "NCHW"
    suffix = ".onnx"

    def convert(self, network: Deployed, spec: ExportSpec) -> bytes:
        """See `Writer.convert`."""
        dynamic = spec.batch == "dynamic"
        samples = network.example(2 if dynamic else 1)
        export = _modern if spec.opset >= MODERN_OPSET else _legacy
        with quiet():
            model = export(network, samples, spec.opset, dynamic)
        _strip(model)
        model.ir_version = IR if spec.opset >= MODERN_OPSET else min(model.ir_version, OLD_IR)
        return _bytes(model)

    def constants(self, model: bytes) -> dict[str, Floats] | None:
        """See `Writer.constants`; None for graphs within graphs."""
        graph = onnx.load_from_string(model).graph
        if _nested(graph):
            return None
        tensors = _tensors(graph).items()
        return {
            name: numpy_helper.to_array(tensor)
            for name, tensor in tensors
            if tensor.data_type == onnx.TensorProto.FLOAT
        }

    def fill(self, model: bytes, values: Mapping[str, Floats]) -> bytes:
        """See `Writer.fill`."""
        proto = onnx.load_from_string(model)
        tensors = _tensors(proto.graph)
        for name, array in values.items():
            shape = tuple(tensors[name].dims)
            filled = np.ascontiguousarray(array, dtype=np.float32).reshape(shape)
            tensors[name].CopyFrom(numpy_helper.from_array(filled, tensors[name].name))
        return _bytes(proto)

    def layers(self, model: bytes) -> list[GraphLayer]:
        """See `Writer.layers`."""
        graph = onnx.load_from_string(model).graph
        return [layer for _, layer in _layers(graph)]

    def histograms(self, model: bytes, calibration: Arrays) -> dict[str, Histogram]:
        """See `Writer.histograms`."""
        return activations.histograms(onnx.load_from_string(model), calibration)

    def lower(
        self, model: bytes, spec: ExportSpec, calibration: Arrays | None, how: Lowering = WHOLE
    ) -> bytes:
        """See `Writer.lower`."""
        if spec.precision == "fp32":
            return model
        proto = onnx.load_from_string(model)
        with quiet():
            kept = _up_to_logarithm(proto.graph) if how.front else []
            if spec.precision == "fp16":
                lowered = _half(proto, kept)
            else:
                lowered = _int8(proto, spec, calibration, how, kept)
        lowered.ir_version = proto.ir_version
        return _bytes(lowered)

    def run(self, model: bytes, samples: Arrays) -> Floats:
        """See `Writer.run`."""
        session = opened(model)
        fixed = isinstance(session.get_inputs()[0].shape[0], int)
        proto = onnx.load_from_string(model)
        chunks = feeds(proto, samples, 1 if fixed else BATCH)
        logits: Floats = np.concatenate([session.run([OUTPUT], feed)[0] for feed in chunks])
        return logits

    def runtime(self) -> str:
        """See `Writer.runtime`."""
        return f"onnxruntime {onnxruntime.__version__}"

    def versions(self) -> dict[str, str]:
        """See `Writer.versions`."""
        names = ("torch", "onnx", "onnxscript", "onnxruntime")
        return {name: version(name) for name in names}

    def close(self) -> None:
        """Do nothing: this writer holds nothing."""


Samples = tuple[torch.Tensor, ...]


def _modern(network: Deployed, samples: Samples, opset: int, dynamic: bool) -> onnx.ModelProto:
    first, *others = ({0: "batch"} for _ in samples)
    shapes = (first, tuple(others)) if others else (first,)
    program = torch.onnx.export(
        network,
        samples,
        dynamo=True,
        verbose=False,
        opset_version=opset,
        input_names=[each.name for each in network.inputs],
        output_names=[OUTPUT],
        dynamic_shapes=shapes if dynamic else None,
    )
    assert program is not None
    return program.model_proto


def _legacy(network: Deployed, samples: Samples, opset: int, dynamic: bool) -> onnx.ModelProto:
    buffer: Any = io.BytesIO()  # taken by this exporter, though its types say otherwise
    names = [each.name for each in network.inputs]
    axes = {name: {0: "batch"} for name in (*names, OUTPUT)} if dynamic else None
    torch.onnx.export(
        network,
        samples,
        buffer,
        dynamo=False,
        verbose=False,
        opset_version=opset,
        input_names=names,
        output_names=[OUTPUT],
        dynamic_axes=axes,
    )
    return onnx.load_from_string(buffer.getvalue())


def _strip(model: onnx.ModelProto) -> None:
    """Drop what the exporter recorded about this machine: stack traces, file names."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info):
        del part.metadata_props[:]
        part.ClearField("doc_string")
    for tensor in graph.initializer:
        del tensor.metadata_props[:]
        tensor.ClearField("doc_string")
    for attribute in (a for node in graph.node for a in node.attribute):
        attribute.ClearField("doc_string")


def _nested(graph: onnx.GraphProto) -> bool:
    """Return True where a node holds a graph of its own."""
    return any(a.type == onnx.AttributeProto.GRAPH for n in graph.node for a in n.attribute)


def _tensors(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """Return every constant tensor of a graph by the name of its value."""
    initializers = {tensor.name: tensor for tensor in graph.initializer}
    nodes = (node for node in graph.node if node.op_type == "Constant")
    constants = {n.output[0]: a.t for n in nodes for a in n.attribute if a.name == "value"}
    return initializers | constants


def _half(model: onnx.ModelProto, kept: list[str]) -> onnx.ModelProto:
    """Convert weights and arithmetic to float16; samples and logits stay float32.

    Nodes that read a sample stay in float32: near 255, float16 resolves only eighths.
    """
    read = {value.name for value in model.graph.input}
    keep = [node.name for node in model.graph.node if read & set(node.input)]
    return convert_float_to_float16(model, keep_io_types=True, node_block_list=[*keep, *kept])


def _up_to_logarithm(graph: onnx.GraphProto) -> list[str]:
    """Return the names of the first logarithm and of all nodes that it depends on."""
    last = next(node for node in graph.node if node.op_type == "Log")
    makers = {output: node for node in graph.node for output in node.output}
    waiting, names = [last], {last.name}
    while waiting:
        sources = [makers[name] for name in waiting.pop().input if name in makers]
        waiting += [node for node in sources if node.name not in names]
        names |= {node.name for node in sources}
    return sorted(names)


def _int8(
    model: onnx.ModelProto,
    spec: ExportSpec,
    calibration: Arrays | None,
    how: Lowering,
    kept: list[str],
) -> onnx.ModelProto:
    """Quantise statically, or dynamically without calibration; `kept` nodes stay in floats.

    A graph with a batch of one is calibrated in chunks, too, with its batch free meanwhile; one
    that cannot take chunks is calibrated one by one, which gives the same ranges slowly.
    """
    names = [node.name for node, _ in _layers(model.graph)]
    kept = [*_wide_norms(model), *kept, *(names[place] for place in how.keep)]
    nodes = {
        "nodes_to_exclude": kept,
        "nodes_to_quantize": None if how.only is None else [names[how.only]],
    }
    if calibration is None:
        return _dynamic_int8(model, nodes)
    if spec.batch == "dynamic":
        return _static_int8(model, spec, calibration, CHUNK, how, nodes)
    onnxruntime.set_default_logger_severity(4)
    try:
        freed = with_batch(model, None)
        quantised = _static_int8(freed, spec, calibration, CHUNK, how, nodes)
    except RUN_ERRORS:
        return _static_int8(model, spec, calibration, 1, how, nodes)
    finally:
        onnxruntime.set_default_logger_severity(2)
    return with_batch(quantised, 1)


def _dynamic_int8(model: onnx.ModelProto, nodes: dict[str, Any]) -> onnx.ModelProto:
    """Quantise dynamically: weights signed 8 bits, per channel where matrices are multiplied.

    The range of what they are multiplied with is found at each run, over all of its samples.
    """
    with tempfile.TemporaryDirectory(prefix="ktbench-") as folder:
        path = Path(folder, "int8.onnx")
        quantize_dynamic(
            _preprocessed(model),
            path,
            op_types_to_quantize=["Conv", "Gather", "Gemm", "MatMul"],
            per_channel=True,
            weight_type=QuantType.QInt8,
            **nodes,
        )
        quantised = onnx.load(path)
    del quantised.metadata_props[:]
    _compact(quantised)
    return quantised


def _static_int8(
    model: onnx.ModelProto,
    spec: ExportSpec,
    calibration: Arrays,
    step: int,
    how: Lowering,
    nodes: dict[str, Any],
) -> onnx.ModelProto:
    """Quantise with fixed ranges, as pairs of Q and DQ: weights signed and per channel."""
    unsigned = spec.activations == "unsigned"
    ranges = {
        name: [{"rmin": np.float32(low), "rmax": np.float32(high)}]
        for name, (low, high) in how.ranges.items()
    }
    with tempfile.TemporaryDirectory(prefix="ktbench-") as folder:
        path = Path(folder, "int8.onnx")
        quantize_static(
            _preprocessed(model),
            path,
            _Calibration(feeds(model, calibration, step)),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=spec.reduce_range,
            activation_type=QuantType.QUInt8 if unsigned else QuantType.QInt8,
            weight_type=QuantType.QInt8,
            extra_options={"TensorQuantOverrides": ranges} if ranges else None,
            **nodes,
        )
        quantised = onnx.load(path)
    del quantised.metadata_props[:]
    _compact(quantised)
    return quantised


def _preprocessed(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy that the quantiser takes without advice to prepare it first."""
    ready = onnx.ModelProto()
    ready.CopyFrom(model)
    ready.metadata_props.add(key="onnx.quant.pre_process", value="onnxruntime.quant")
    return ready


_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_INTEGER_LAYERS = ("ConvInteger", "MatMulInteger", "DynamicQuantizeMatMul")


def _layers(graph: onnx.GraphProto) -> list[tuple[onnx.NodeProto, GraphLayer]]:
    """Return the nodes that multiply with constant weights, and what they are."""
    tensors = _tensors(graph)
    makers = {output: node for node in graph.node for output in node.output}
    found = []
    for node in graph.node:
        if node.op_type not in _LAYERS + _INTEGER_LAYERS:
            continue
        weights, through = node.input[1], ""
        while weights not in tensors and weights in makers:
            maker = makers[weights]
            if maker.op_type not in ("Transpose", "DequantizeLinear"):
                break
            through, weights = through or maker.op_type, maker.input[0]
            if maker.op_type == "DequantizeLinear":
                through = maker.op_type
        if weights not in tensors:
            continue
        read = makers.get(node.input[0])
        both = through == "DequantizeLinear" and read is not None and read.op_type == through
        found.append((node, GraphLayer(weights, both or node.op_type in _INTEGER_LAYERS)))
    return found


def _compact(model: onnx.ModelProto) -> None:
    """Number the inner values of a quantised graph, and keep equal constants once.

    The quantiser names each value by the module and what became of it, and gives every channel a
    zero point: in a network of many small layers that is as much as its weights. A graph within
    the graph reads values by name, so that such a model stays as it is.
    """
    graph = model.graph
    if _nested(graph):
        return
    names = {value.name: value.name for value in (*graph.input, *graph.output)}
    constants: dict[bytes, onnx.TensorProto] = {}
    for tensor in graph.initializer:
        name, tensor.name = tensor.name, ""
        kept = constants.setdefault(tensor.SerializeToString(deterministic=True), tensor)
        kept.name = kept.name or names.get(name, f"c{len(constants)}")
        names[name] = kept.name
    tensors = [copy.deepcopy(tensor) for tensor in constants.values()]
    del graph.initializer[:], graph.value_info[:]
    graph.initializer.extend(tensors)
    for node in graph.node:
        node.name = ""
        for ends in (node.input, node.output):
            ends[:] = [names.setdefault(name, f"v{len(names)}") if name else "" for name in ends]


def _wide_norms(model: onnx.ModelProto) -> list[str]:
    """Return the layer normalisations over several axes: their scale has no channel axis."""
    sizes = {tensor.name: len(tensor.dims) for tensor in model.graph.initializer}
    return [
        node.name
        for node in model.graph.node
        if node.op_type == "LayerNormalization" and sizes.get(node.input[1], 1) > 1
    ]


class _Calibration(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, feeds: Iterator[Feed]) -> None:
        self._feeds = feeds

    def get_next(self) -> Feed | None:
        """The next feed, or None at the end."""
        return next(self._feeds, None)


def _bytes(model: onnx.ModelProto) -> bytes:
    written: bytes = model.SerializeToString(deterministic=True)
    return written
