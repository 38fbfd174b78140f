"""TensorFlow Lite: LiteRT, or its forerunner tflite-runtime, whichever is installed."""

from typing import Any, Callable, List, Optional, Tuple

from ..protocol import TaskError
from . import Input, Options, Session, batch_of

FORMATS = ("tflite",)
INSTALL = "ai-edge-litert (or, on older boards, tflite-runtime with numpy below 2)"


LAYERS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV")
"""Operators with weights, which are the second input of each."""
INTEGERS = ("int8", "uint8", "int4")


def _packages() -> Any:
    """The package's name and its `Interpreter`; ImportError where neither is installed."""
    try:
        from ai_edge_litert.interpreter import Interpreter

        return "ai_edge_litert", Interpreter
    except ImportError:
        from tflite_runtime.interpreter import Interpreter

        return "tflite_runtime", Interpreter


def version() -> str:
    """The package and its version; ImportError where neither is installed."""
    import importlib

    name = _packages()[0]
    return "%s %s" % (name.replace("_", "-"), importlib.import_module(name).__version__)


class TfliteSession(Session):
    """A TFLite model with its tensors allocated."""

    def __init__(self, path: str, options: Options) -> None:
        if options.provider not in ("cpu", "xnnpack"):
            raise TaskError("TFLite runs on the processor here, not on %s" % options.provider)
        self._interpreter = _packages()[1](model_path=path, num_threads=options.threads)
        for entry in self._interpreter.get_input_details():
            shape = _shape(entry, options.batch)
            if shape != [int(axis) for axis in entry["shape"]]:
                self._interpreter.resize_tensor_input(entry["index"], shape)
        self._interpreter.allocate_tensors()
        details = self._interpreter.get_input_details()
        self.inputs = [
            Input(entry["name"], entry["dtype"].__name__, tuple(int(n) for n in entry["shape"]))
            for entry in details
        ]
        self._input_indices = [entry["index"] for entry in details]
        self._output_indices = [e["index"] for e in self._interpreter.get_output_details()]
        self.provider = self._delegate()
        # `cpu` asks for no delegate: whatever the interpreter takes by default is right.
        self.wanted = "XNNPACK" if options.provider == "xnnpack" else self.provider

    def _delegate(self) -> str:
        """XNNPACK where it took over part of the graph, which then has a delegate's node."""
        try:
            nodes = [entry["op_name"] for entry in self._interpreter._get_ops_details()]
        except AttributeError:
            return "unknown"
        return "XNNPACK" if "DELEGATE" in nodes or "TfLiteXNNPackDelegate" in nodes else "builtin"

    def kernels(self) -> Optional[Tuple[int, int]]:
        """See `Session.kernels`: here the types of a layer's tensors decide its arithmetic.

        Weights of 8 bits make it an integer's, also where the runtime first rounds its input.
        """
        try:
            operators = self._interpreter._get_ops_details()
        except AttributeError:
            return None
        types = {entry["index"]: entry["dtype"] for entry in self._interpreter.get_tensor_details()}
        weights = [
            types.get(operator["inputs"][1])
            for operator in operators
            if operator["op_name"] in LAYERS
        ]
        integer = [kind is not None and kind.__name__ in INTEGERS for kind in weights]
        return (sum(integer), len(integer)) if integer else None

    def prepare(self, feeds: List[Any]) -> Callable[[], List[Any]]:
        """See `Session.prepare`; setting inputs and copying outputs is part of the call."""
        pairs = list(zip(self._input_indices, feeds))
        outputs = self._output_indices
        set_tensor, get_tensor = self._interpreter.set_tensor, self._interpreter.get_tensor
        invoke = self._interpreter.invoke

        def call() -> List[Any]:
            for index, feed in pairs:
                set_tensor(index, feed)
            invoke()
            return [get_tensor(index) for index in outputs]

        return call


def _shape(entry: Any, batch: Optional[int]) -> List[int]:
    """The input's shape with its free axes filled in."""
    signature = [int(axis) for axis in entry["shape_signature"]]
    free = [axis if axis > 0 else 1 for axis in signature]
    return [batch_of(signature, batch)] + free[1:] if free else free


def load(path: str, options: Options) -> Session:
    """A model ready to run."""
    return TfliteSession(path, options)
