"""ONNX Runtime: on the processor, XNNPACK, CUDA or TensorRT."""

import functools
import json
import os
import tempfile
import time
from typing import Any, Callable, Dict, List, Optional, Set, Tuple

from ..protocol import TaskError
from . import Input, Options, Session, batch_of

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


# Providers in the order of preference for each that may be asked for: what the first cannot run,
# the next does.
_WANTED = {
    "cpu": ("CPUExecutionProvider",),
    "xnnpack": ("XnnpackExecutionProvider", "CPUExecutionProvider"),
    "cuda": ("CUDAExecutionProvider", "CPUExecutionProvider"),
    "tensorrt": (
        "TensorrtExecutionProvider",
        "CUDAExecutionProvider",
        "CPUExecutionProvider",
    ),
}


def providers(options: Options) -> List[Tuple[str, Dict[str, str]]]:
    """The providers of a session with their options; TaskError for a name that is none.

    XNNPACK has threads of its own (ONNX Runtime's page on it); TensorRT keeps the engines that it
    compiles, so that compiling one is paid once and told apart.
    """
    if options.provider not in _WANTED:
        raise TaskError("onnxruntime has no provider %r" % options.provider)
    settings: Dict[str, Dict[str, str]] = {
        "XnnpackExecutionProvider": {"intra_op_num_threads": str(options.threads)}
    }
    if options.engines is not None:
        settings["TensorrtExecutionProvider"] = {
            "trt_engine_cache_enable": "True",
            "trt_engine_cache_path": options.engines,
            "trt_timing_cache_enable": "True",
            "trt_timing_cache_path": options.engines,
        }
    return [(name, settings.get(name, {})) for name in _WANTED[options.provider]]


def session_options(options: Options) -> Any:
    """ONNX Runtime's own options: threads of one pool, and no spinning beside XNNPACK's."""
    import onnxruntime

    result = onnxruntime.SessionOptions()
    own_threads = options.provider == "xnnpack"
    result.intra_op_num_threads = 1 if own_threads else options.threads
    result.inter_op_num_threads = 1
    result.log_severity_level = 3
    if own_threads:
        result.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return result


def lacking(provider: str, available: List[str]) -> Optional[str]:
    """Explain in one sentence why a provider cannot even be asked for."""
    if provider in available:
        return None
    return "this onnxruntime was built without %s: it has %s" % (provider, ", ".join(available))


class OnnxSession(Session):
    """An ONNX model, loaded with the default optimisations."""

    def __init__(self, path: str, options: Options) -> None:
        import onnxruntime

        chosen = providers(options)
        self.wanted = chosen[0][0]
        reason = lacking(self.wanted, onnxruntime.get_available_providers())
        if reason:
            raise TaskError(reason)
        self._path, self._options = path, options
        if options.engines is not None and options.provider == "tensorrt":
            self.build_ns = self._build(options.engines)
        self._session = self._open()
        self.provider = str(self._session.get_providers()[0])
        self.inputs = [_input(entry, options.batch) for entry in self._session.get_inputs()]

    def _open(self, profile: Optional[str] = None) -> Any:
        import onnxruntime

        options = session_options(self._options)
        if profile is not None:
            options.enable_profiling = True
            options.profile_file_prefix = profile
        return onnxruntime.InferenceSession(
            self._path, sess_options=options, providers=providers(self._options)
        )

    def _build(self, engines: str) -> Optional[int]:
        """Compile the engine unless the folder holds one; the first run may be what compiles it."""
        os.makedirs(engines, mode=0o700, exist_ok=True)
        if any(name.endswith(".engine") for name in os.listdir(engines)):
            return None
        start = time.perf_counter()
        session = self._open()
        named = {entry.name: zeros(entry, self._options.batch) for entry in session.get_inputs()}
        session.run(None, named)
        return int((time.perf_counter() - start) * 1e9)

    def prove(self) -> None:
        """Count who ran the nodes.

        What a session lists are the providers that it may use; the profile says which it did.
        """
        self.nodes = count_nodes(self._profile())
        if self.wanted not in self.nodes:
            self.provider = max(self.nodes, key=lambda n: (self.nodes or {})[n], default="none")

    def kernels(self) -> Optional[Tuple[int, int]]:
        """See `Session.kernels`; a compiled graph has no layers of its own."""
        if self._options.provider not in ("cpu", "xnnpack"):
            return None
        return count_kernels(self._profile())

    def _profile(self) -> List[Dict[str, Any]]:
        """The events of one run under the profiler, in a session apart."""
        with tempfile.TemporaryDirectory() as folder:
            session = self._open(os.path.join(folder, "profile"))
            named = {e.name: zeros(e, self._options.batch) for e in session.get_inputs()}
            session.run(None, named)
            with open(session.end_profiling()) as file:
                events = json.load(file)
        return [event for event in events if event.get("cat") == "Node"]

    def prepare(self, feeds: List[Any]) -> Callable[[], List[Any]]:
        """See `Session.prepare`."""
        named = {entry.name: feed for entry, feed in zip(self.inputs, feeds)}
        return functools.partial(self._session.run, None, named)


def count_nodes(events: List[Dict[str, Any]]) -> Dict[str, int]:
    """Nodes per provider in a profile's events: distinct names that were run."""
    nodes: Dict[str, Set[str]] = {}
    for event in events:
        provider = (event.get("args") or {}).get("provider")
        if event.get("cat") == "Node" and provider:
            nodes.setdefault(str(provider), set()).add(str(event.get("name")))
    return {provider: len(names) for provider, names in nodes.items()}


_CONVOLUTIONS = {
    "QLinearConv": True,
    "ConvInteger": True,
    "Conv": False,
    "FusedConv": False,
    "NhwcFusedConv": False,
    "ConvTranspose": False,
}
_PRODUCTS = {
    "QGemm": True,
    "QLinearMatMul": True,
    "MatMulInteger": True,
    "MatMulIntegerToFloat": True,
    "DynamicQuantizeMatMul": True,
    "Gemm": False,
    "FusedGemm": False,
    "MatMul": False,
    "FusedMatMul": False,
}
"""Operators of layers, and whether they compute with integers."""


def count_kernels(events: List[Dict[str, Any]]) -> Optional[Tuple[int, int]]:
    """Count layers that ran as integers, and all layers, in a profile's events; None without any.

    A product of two activations, as in attention, is no layer: both of its factors have axes for
    the batch, while a matrix of weights has two axes or, once it is packed, is no longer told.
    """
    layers: Dict[str, bool] = {}
    for event in events:
        told = event.get("args") or {}
        kind, shapes = told.get("op_name"), told.get("input_type_shape") or []
        deep = [axes for entry in shapes for axes in entry.values() if len(axes) > 2]
        if kind in _CONVOLUTIONS:
            layers[str(event.get("name"))] = _CONVOLUTIONS[kind]
        elif kind in _PRODUCTS and len(deep) < 2:
            layers[str(event.get("name"))] = _PRODUCTS[kind]
    return (sum(layers.values()), len(layers)) if layers else None


def zeros(entry: Any, batch: Optional[int]) -> Any:
    """An input of zeros."""
    import numpy as np  # a board that lacks it is told so, as it is of a runtime

    spec = _input(entry, batch)
    return np.zeros(spec.shape, dtype=spec.dtype)


def _input(entry: Any, batch: Optional[int]) -> Input:
    if entry.type not in _DTYPES:
        raise TaskError("input %s is a %s, which the agent cannot make" % (entry.name, entry.type))
    shape = tuple(axis if isinstance(axis, int) and axis > 0 else 1 for axis in entry.shape)
    if shape:
        shape = (batch_of(entry.shape, batch),) + shape[1:]
    return Input(entry.name, _DTYPES[entry.type], shape)


def load(path: str, options: Options) -> Session:
    """A model ready to run."""
    return OnnxSession(path, options)
