"""ONNX Runtime, on the processor."""

import functools
from typing import Any, Callable, List

from ..protocol import TaskError
from . import Input, Session

FORMATS = ("onnx",)
INSTALL = "onnxruntime"

_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(uint8)": "uint8",
    "tensor(int8)": "int8",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(bool)": "bool",
}


def version() -> str:
    """The installed version; ImportError where there is none."""
    import onnxruntime

    return str(onnxruntime.__version__)


class OnnxSession(Session):
    """An ONNX model, loaded with the default optimisations."""

    def __init__(self, path: str, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            path, sess_options=options, providers=["CPUExecutionProvider"]
        )
        self.wanted = "CPUExecutionProvider"
        self.provider = str(self._session.get_providers()[0])
        self.inputs = [_input(entry) for entry in self._session.get_inputs()]

    def prepare(self, feeds: List[Any]) -> Callable[[], List[Any]]:
        """See `Session.prepare`."""
        named = {entry.name: feed for entry, feed in zip(self.inputs, feeds)}
        return functools.partial(self._session.run, None, named)


def _input(entry: Any) -> Input:
    if entry.type not in _DTYPES:
        raise TaskError("input %s is a %s, which the agent cannot make" % (entry.name, entry.type))
    shape = tuple(axis if isinstance(axis, int) and axis > 0 else 1 for axis in entry.shape)
    return Input(entry.name, _DTYPES[entry.type], shape)


def load(path: str, threads: int) -> Session:
    """A model ready to run."""
    return OnnxSession(path, threads)
