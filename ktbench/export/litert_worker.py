"""The LiteRT process: it converts, quantises and runs TFLite graphs for its parent.

It is a program of its own because the converter brings large packages, writes to the terminal
from C++, and may abort; none of that reaches the process that trains. It is started with the
number of an inherited socket, ends when the other side closes it, and imports nothing of ktbench.
"""

from __future__ import annotations

import io
import sys
import warnings
from collections.abc import Callable, Iterator
from itertools import count
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from numpy.typing import NDArray

SIGNATURE, OUTPUT = "serving_default", "logits"
Arrays = dict[str, NDArray[Any]]
BATCH = 256
ALIGNMENT = 16
"""Bytes at whose multiples the format wants constants (`force_align` of its schema); the packages
of Python leave them where they fall."""
LARGEST_RATIO = 128.0
"""Largest ratio of a product of steps to the output's step, with a factor of two to spare."""
CHUNK = 32
"""Calibration samples run at once: every activation of theirs is kept in memory."""


def convert(program: bytes, blank: dict[str, NDArray[Any]], dynamic: bool) -> bytes:
    """Convert a saved torch program to an fp32 graph; `blank` has samples (B, ...) per input.

    With `dynamic`, the graph's batch is then set free.
    """
    import torch

    torch.set_num_threads(1)
    import litert_torch
    from litert_torch import progress

    progress.config.show_progress = False
    network = torch.export.load(io.BytesIO(program)).module()
    samples = {name: torch.from_numpy(sample) for name, sample in blank.items()}
    converted = litert_torch.convert(network, sample_kwargs=samples)
    model = bytes(converted.model_content())
    batch = len(next(iter(blank.values())))
    if dynamic:
        model = free_batch(model) if batch == 1 else free_traced_batch(model, batch)
    return compact(model)


def compact(model: bytes) -> bytes:
    """Return the same graph in a smaller file, its constants aligned as the format demands.

    A tensor's name is the paths of all modules that it went through, a kilobyte and more, and a
    layer quantised per channel has a zero point of eight bytes for each, all of them zero: in a
    network of many small layers both are larger than the weights. Inner tensors are numbered
    instead, and equal zero points are written once.
    """
    import flatbuffers  # type: ignore[import-untyped]
    from ai_edge_litert.tools import flatbuffer_utils

    class Builder(flatbuffers.Builder):  # type: ignore[misc]
        """Writes equal int64 vectors once, and bytes at multiples of `ALIGNMENT`."""

        def __init__(self) -> None:
            super().__init__(len(model))
            self.written: dict[bytes, int] = {}

        def CreateNumpyVector(self, x: NDArray[Any]) -> int:  # noqa: N802 - its name there
            if x.dtype != np.int64:
                return int(super().CreateNumpyVector(x))
            content = x.tobytes()
            if content not in self.written:
                self.written[content] = super().CreateNumpyVector(x)
            return self.written[content]

        def StartVector(self, size: int, length: int, alignment: int) -> int:  # noqa: N802
            return int(super().StartVector(size, length, ALIGNMENT if size == 1 else alignment))

    graph = flatbuffer_utils.read_model_from_bytearray(bytearray(model))
    numbers = count()  # names are unique within the file: calibrated ranges are kept by them
    for part in graph.subgraphs:
        ends = {*part.inputs, *part.outputs}
        for place, tensor in enumerate(part.tensors):
            if place not in ends:
                tensor.name = f"t{next(numbers)}".encode()
    builder = Builder()
    builder.Finish(graph.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def free_batch(model: bytes) -> bytes:
    """Return the same graph with a free first dimension of images and logits.

    Every activation's batch becomes free, and so does a reshape's or slice's of one; the runtime
    works the sizes out again when the input is resized.
    """
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.tools import flatbuffer_utils

    graph = flatbuffer_utils.read_model_from_bytearray(bytearray(model))
    reshape, cut = schema.BuiltinOperator.RESHAPE, schema.BuiltinOperator.SLICE
    for part in graph.subgraphs:
        for tensor in part.tensors:
            constant = graph.buffers[tensor.buffer].data is not None
            if not constant and tensor.shape is not None and len(tensor.shape):
                tensor.shapeSignature = np.array([-1, *tensor.shape[1:]], np.int32)
        for operator in part.operators:
            if graph.operatorCodes[operator.opcodeIndex].builtinCode == reshape:
                _free_reshape(graph, part, operator)
            if graph.operatorCodes[operator.opcodeIndex].builtinCode == cut:
                _free_slice(graph, part, operator)
    return bytes(flatbuffer_utils.convert_object_to_bytearray(graph))


def _free_reshape(graph: Any, part: Any, operator: Any) -> None:
    """Let a reshape keep the batch: its target (1, ...) becomes (-1, ...)."""
    target = part.tensors[operator.inputs[1]]
    sizes = np.frombuffer(bytes(graph.buffers[target.buffer].data), np.int32).copy()
    if part.tensors[operator.inputs[0]].shape[0] == 1 and sizes[0] == 1 and sizes.min() > 0:
        sizes[0] = -1
        graph.buffers[target.buffer].data = np.frombuffer(sizes.tobytes(), np.uint8)
        operator.builtinOptions = None
        operator.builtinOptionsType = 0


def _free_slice(graph: Any, part: Any, operator: Any) -> None:
    """Let a slice take the whole batch: its sizes (1, ...) become (-1, ...)."""
    begin, size = (part.tensors[number] for number in operator.inputs[1:3])
    if graph.buffers[begin.buffer].data is None or graph.buffers[size.buffer].data is None:
        return
    starts = np.frombuffer(bytes(graph.buffers[begin.buffer].data), np.int32)
    sizes = np.frombuffer(bytes(graph.buffers[size.buffer].data), np.int32).copy()
    if part.tensors[operator.inputs[0]].shape[0] == 1 and (starts[0], sizes[0]) == (0, 1):
        sizes[0] = -1
        graph.buffers[size.buffer].data = np.frombuffer(sizes.tobytes(), np.uint8)


def free_traced_batch(model: bytes, batch: int) -> bytes:
    """Return a graph that was converted for a batch of several samples with a free one.

    The batch must be the outermost part of every tensor that depends on a sample: of its first
    dimension that is not 1. That dimension becomes free, and so do the sizes that a reshape or a
    slice writes for it; constants that were repeated for each sample are kept once. Raises
    ValueError for any other graph.
    """
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.tools import flatbuffer_utils

    kinds = schema.BuiltinOperator
    sizes_of = {kinds.RESHAPE: 1, kinds.SLICE: 2}  # which of the inputs holds the output's sizes
    graph = flatbuffer_utils.read_model_from_bytearray(bytearray(model))
    for part in graph.subgraphs:
        sampled = {*part.inputs}
        for operator in part.operators:
            if sampled.isdisjoint(operator.inputs):
                continue
            sampled.update(operator.outputs)
            place = sizes_of.get(graph.operatorCodes[operator.opcodeIndex].builtinCode)
            if place is not None:
                _free_sizes(graph, part.tensors[operator.inputs[place]], batch)
                operator.builtinOptions, operator.builtinOptionsType = None, 0
            for number in {*operator.inputs} - sampled - {-1}:
                _keep_one_row(graph, part.tensors[number], batch)
        for number in sampled:
            tensor = part.tensors[number]
            tensor.shapeSignature = _freed(tensor.shape, batch)
    return bytes(flatbuffer_utils.convert_object_to_bytearray(graph))


def _freed(shape: Any, batch: int) -> NDArray[np.int32]:
    """Return a shape with its first dimension other than 1 free; ValueError if not the batch."""
    freed = np.array(shape, np.int32)
    first = int(np.argmax(freed != 1)) if freed.size else 0
    if not freed.size or freed.min() <= 0 or freed[first] % batch:
        raise ValueError("the batch is not the outermost dimension throughout: export with batch 1")
    freed[first] = -1
    return freed


def _free_sizes(graph: Any, sizes: Any, batch: int) -> None:
    """Set the batch free in the sizes that an operator writes, which several may share."""
    buffer = graph.buffers[sizes.buffer]
    written = np.frombuffer(bytes(buffer.data), np.int32)
    if -1 not in written:
        buffer.data = np.frombuffer(_freed(written, batch).tobytes(), np.uint8)


def _keep_one_row(graph: Any, tensor: Any, batch: int) -> None:
    """Keep one of the equal rows of a constant that the converter repeated for each sample."""
    buffer = graph.buffers[tensor.buffer]
    if buffer.data is None or tensor.shape is None or len(tensor.shape) < 2:
        return
    if tensor.shape[0] == batch:
        rows = np.frombuffer(bytes(buffer.data), np.uint8).reshape(batch, -1)
        if (rows == rows[0]).all():
            buffer.data = rows[0].copy()
            tensor.shape = np.array([1, *tensor.shape[1:]], np.int32)


def lower(model: bytes, precision: str, samples: Arrays | None, how: dict[str, Any]) -> bytes:
    """Return the graph in `fp16` (weights) or `int8`; samples and logits keep their types.

    int8 is static with the ranges that `samples` give, and dynamic without them: then weights alone
    are stored in 8 bits, and the runtime finds the range of what they are multiplied with. `how` is
    a `Lowering`.
    """
    from ai_edge_quantizer import quantizer

    recipe = _recipe(model, precision, samples is not None, how)
    maker = quantizer.Quantizer(model)
    maker.load_quantization_recipe(recipe.get_quantization_recipe())
    if precision != "int8" or samples is None:
        return compact(maker.quantize(None, enable_progress_report=False).quantized_model)
    ranges = _ranges(model, recipe, samples)
    for name, (low, high) in how["ranges"].items():
        if name in ranges:
            ranges[name] = _bounded(ranges[name], low, high)
    lowered = bytes(maker.quantize(ranges, enable_progress_report=False).quantized_model)
    wider = _too_fine(lowered)
    for name in wider.keys() & ranges.keys():
        ranges[name] = _bounded(ranges[name], 0.0, wider[name])
    if wider:
        lowered = bytes(maker.quantize(ranges, enable_progress_report=False).quantized_model)
    return compact(_relus_as_requantising(lowered))


def _recipe(model: bytes, precision: str, static: bool, how: dict[str, Any]) -> Any:
    """Return what is quantised how; outputs name their operators."""
    from ai_edge_quantizer import algorithm_manager, qtyping, recipe_manager

    names, algorithms = qtyping.TFLOperationName, algorithm_manager.AlgorithmName
    recipe = recipe_manager.RecipeManager()
    outputs = _layer_outputs(model) if how["keep"] or how["only"] is not None else []
    scope = ".*" if how["only"] is None else f"^{outputs[how['only']]};$"
    if precision == "fp16":
        recipe.add_weight_only_config(
            scope, names.ALL_SUPPORTED, 16, algorithm_key=algorithms.FLOAT_CASTING
        )
    elif not static:
        recipe.add_dynamic_config(scope, names.ALL_SUPPORTED, 8)
    else:
        recipe.add_static_config(scope, names.ALL_SUPPORTED, 8, 8)
        for end in (names.INPUT, names.OUTPUT):
            recipe.add_quantization_config(".*", end, algorithm_key=algorithms.NO_QUANTIZE)
    kept = [outputs[place] for place in how["keep"]]
    for name in [*kept, *(_up_to_logarithm(model) if how["front"] else [])]:
        recipe.add_quantization_config(
            f"^{name};$", names.ALL_SUPPORTED, algorithm_key=algorithms.NO_QUANTIZE
        )
    return recipe


def _bounded(old: Any, low: float, high: float) -> Any:
    """Return what is known of a tensor's values with another range."""
    like = np.asarray(old["max"], np.float32)
    return {**old, "min": np.full_like(like, low), "max": np.full_like(like, high)}


def _layer_outputs(model: bytes) -> list[str]:
    """Return the names of the outputs of operators with constant weights, in their order."""
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.tools import flatbuffer_utils

    graph = flatbuffer_utils.read_model_from_bytearray(bytearray(model))
    part = graph.subgraphs[0]
    return [
        _text(part.tensors[operator.outputs[0]].name)
        for operator in part.operators
        if graph.operatorCodes[operator.opcodeIndex].builtinCode in layer_kinds(schema)
        and graph.buffers[part.tensors[operator.inputs[1]].buffer].data is not None
    ]


def layer_kinds(schema: Any) -> tuple[int, ...]:
    """Return the codes of operators that multiply with weights."""
    kinds = schema.BuiltinOperator
    return kinds.CONV_2D, kinds.DEPTHWISE_CONV_2D, kinds.FULLY_CONNECTED, kinds.TRANSPOSE_CONV


def _up_to_logarithm(model: bytes) -> list[str]:
    """Return the names of the outputs of the first logarithm and of all that it depends on."""
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.tools import flatbuffer_utils

    graph = flatbuffer_utils.read_model_from_bytearray(bytearray(model))
    part, code = graph.subgraphs[0], schema.BuiltinOperator.LOG
    kinds = [graph.operatorCodes[operator.opcodeIndex].builtinCode for operator in part.operators]
    makers = {output: operator for operator in part.operators for output in operator.outputs}
    waiting, reached = [part.operators[kinds.index(code)].outputs[0]], set()
    while waiting:
        tensor = waiting.pop()
        if tensor in makers and tensor not in reached:
            reached.add(tensor)
            waiting += list(makers[tensor].inputs)
    return [_text(part.tensors[tensor].name) for tensor in sorted(reached)]


def _relus_as_requantising(model: bytes) -> bytes:
    """Return the same int8 graph with each ReLU of its own written as a change of quantisation.

    XNNPACK leaves such a ReLU (of a concatenation, of another ReLU) to a kernel that takes longer
    than a convolution, and ends the run of operators that it executes. An output whose least value
    stands for zero saturates there when it is only requantised, which XNNPACK does.
    """
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.tools import flatbuffer_utils

    kinds = schema.BuiltinOperator
    graph = flatbuffer_utils.read_model_from_bytearray(bytearray(model))
    replaced = []
    for part in graph.subgraphs:
        for operator in part.operators:
            output = part.tensors[operator.outputs[0]]
            if graph.operatorCodes[operator.opcodeIndex].builtinCode != kinds.RELU:
                continue
            if output.type == schema.TensorType.INT8 and output.quantization.zeroPoint[0] == -128:
                replaced.append(operator)
    if not replaced:
        return model
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = kinds.QUANTIZE
    code.version = 2  # of int8 to int8
    for operator in replaced:
        operator.opcodeIndex = len(graph.operatorCodes)
        operator.builtinOptions, operator.builtinOptionsType = None, 0
    graph.operatorCodes.append(code)
    return bytes(flatbuffer_utils.convert_object_to_bytearray(graph))


def _too_fine(model: bytes) -> dict[str, float]:
    """Return outputs of convolutions whose int8 step is too fine to run, with a wider range's end.

    XNNPACK, which runs the graph here and on boards, takes no product of an input's and a weight's
    step that is 256 output steps or more: it fails or ends the process. So it is for a layer that
    gave nothing but zeros for every calibration image, as a dead gate does. A range up to the
    value, in which the output's step is that product, loses nothing: no sum of products is finer.
    """
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.tools import flatbuffer_utils

    graph = flatbuffer_utils.read_model_from_bytearray(bytearray(model))
    bounds = {}
    for part in graph.subgraphs:
        for operator in part.operators:
            if graph.operatorCodes[operator.opcodeIndex].builtinCode not in layer_kinds(schema):
                continue
            steps = [_step(part.tensors[number]) for number in operator.inputs if number >= 0]
            output = part.tensors[operator.outputs[0]]
            factors = [step for step in steps[-3:] if step]
            if len(factors) < 2 or not (output_step := _step(output)):
                continue
            product = factors[0] * factors[1]
            if product >= LARGEST_RATIO * output_step:
                bounds[_text(output.name)] = 255 * product
    return bounds


def _step(tensor: Any) -> float:
    """Return the greatest step of a quantised tensor's channels; 0 if it is not quantised."""
    scales = getattr(tensor.quantization, "scale", None)
    return float(np.max(scales)) if scales is not None and len(scales) else 0.0


def _text(name: Any) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)


def _ranges(model: bytes, recipe: Any, samples: Arrays) -> Any:
    """Find the least and greatest value of every tensor, in chunks or one by one.

    A graph that cannot take a chunk, though its batch is free, raises; the ranges are the same.
    """
    from ai_edge_quantizer import calibrator
    from ai_edge_quantizer.utils import qsv_utils

    def calibrated(graph: bytes, step: int) -> Any:
        columns = _by_name(graph, samples)
        feeds = [
            {name: column[i : i + step] for name, column in columns.items()}
            for i in range(0, len(next(iter(samples.values()))), step)
        ]
        tool = calibrator.Calibrator(graph, num_threads=1, qsv_update_func=qsv_utils.min_max_update)
        tool.calibrate({SIGNATURE: feeds}, recipe)
        return tool.get_model_qsvs()

    try:
        return calibrated(free_batch(model), CHUNK)
    except (RuntimeError, ValueError):
        return calibrated(model, 1)


Counts = dict[str, tuple[float, float, NDArray[np.int64]]]


def histograms(model: bytes, samples: Arrays, bins: int) -> Counts:
    """Return least and greatest value of each inner float tensor, and counts of those between."""
    try:
        return _histograms(free_batch(model), samples, bins, CHUNK)
    except (RuntimeError, ValueError):
        return _histograms(model, samples, bins, 1)


def _histograms(model: bytes, samples: Arrays, bins: int, step: int) -> Counts:
    """Run twice: first for the ends of each histogram, then for its counts."""
    ends: dict[str, tuple[float, float]] = {}
    for tensors in _inner_values(model, samples, step):
        for name, values in tensors.items():
            low, high = ends.get(name, (np.inf, -np.inf))
            ends[name] = (min(low, float(values.min())), max(high, float(values.max())))
    counts = {name: np.zeros(bins, np.int64) for name in ends}
    for tensors in _inner_values(model, samples, step):
        for name, values in tensors.items():
            if ends[name][0] < ends[name][1]:
                counts[name] += np.histogram(values, bins, ends[name])[0]
    return {name: (*ends[name], counts[name]) for name in ends}


def _inner_values(model: bytes, samples: Arrays, step: int) -> Iterator[dict[str, NDArray[Any]]]:
    """Yield what each operator gives for a chunk of the samples, by the name of the tensor."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    interpreter = Interpreter(
        model_content=model,
        num_threads=1,
        experimental_preserve_all_tensors=True,
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    sources = interpreter.get_signature_runner(SIGNATURE).get_input_details()
    columns = _by_name(model, samples)
    for start in range(0, len(next(iter(columns.values()))), step):
        for name, source in sources.items():
            part = columns[name][start : start + step]
            interpreter.resize_tensor_input(source["index"], list(part.shape))
        interpreter.allocate_tensors()
        for name, source in sources.items():
            interpreter.set_tensor(source["index"], columns[name][start : start + step])
        interpreter.invoke()
        made = {int(n) for entry in interpreter._get_ops_details() for n in entry["outputs"]}
        yield {
            entry["name"]: interpreter.get_tensor(entry["index"])
            for entry in interpreter.get_tensor_details()
            if entry["index"] in made and entry["dtype"] is np.float32
        }


def _by_name(model: bytes, samples: Arrays) -> dict[str, NDArray[Any]]:
    """Return samples in the types of a graph's inputs."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=model, num_threads=1)
    details = interpreter.get_input_details()
    names = interpreter.get_signature_runner(SIGNATURE).get_input_details()
    types = {detail["index"]: detail["dtype"] for detail in details}
    return {name: samples[name].astype(types[names[name]["index"]]) for name in names}


def run(model: bytes, samples: Arrays) -> NDArray[np.float32]:
    """Return logits (N, K) of raw samples (N, ...), computed on one thread."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=model, num_threads=1)
    details = interpreter.get_signature_runner(SIGNATURE).get_input_details()
    sources, [target] = list(details.values()), interpreter.get_output_details()
    step = BATCH if interpreter.get_input_details()[0]["shape_signature"][0] == -1 else 1
    columns = list(_by_name(model, samples).values())
    logits, size = [], 0
    for start in range(0, len(columns[0]), step):
        batches = [column[start : start + step] for column in columns]
        if len(batches[0]) != size:
            for source, batch in zip(sources, batches, strict=True):
                interpreter.resize_tensor_input(source["index"], list(batch.shape))
            interpreter.allocate_tensors()
            size = len(batches[0])
        for source, batch in zip(sources, batches, strict=True):
            interpreter.set_tensor(source["index"], batch)
        interpreter.invoke()
        logits.append(interpreter.get_tensor(target["index"]))
        if len(logits[-1]) != size:
            raise ValueError(f"{len(logits[-1])} rows of logits for a batch of {size} samples")
    return np.concatenate(logits)


JOBS: dict[str, Callable[..., Any]] = {
    "convert": convert,
    "histograms": histograms,
    "lower": lower,
    "run": run,
}


def _briefly(error: Exception) -> str:
    """Return an error's first line and the lines that name an operator."""
    first, *others = str(error).strip().splitlines() or [""]
    marks = ("aten.", "prims.", "aten::", "stablehlo.", "tfl.", "ot supported", "not found")
    named = [line.strip() for line in others if any(mark in line for mark in marks)]
    return "\n".join([first, *named[:5]])[:2000]


def main() -> None:
    """Answer (job, arguments) with (True, result) or (False, one line); None ends it."""
    warnings.simplefilter("ignore")
    connection = Connection(int(sys.argv[1]))
    while True:
        try:
            message = connection.recv()
        except EOFError:
            return
        if message is None:
            return
        job, arguments = message
        try:
            answer = (True, JOBS[job](*arguments))
        except Exception as error:  # whatever the converter raises, the parent decides
            answer = (False, f"{type(error).__name__}: {_briefly(error)}")
        connection.send(answer)


if __name__ == "__main__":
    main()
