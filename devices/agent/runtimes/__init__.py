"""Runtimes that can run an artifact on a board: one per file, imported when it is asked for.

A file `<name>_.py` (the underscore keeps it from hiding the package it wraps) defines `FORMATS`,
`INSTALL` (what to install), `version()`, which raises ImportError where the runtime is not
installed, and `load(path, options)`, which returns a `Session`.
"""

import importlib
import pkgutil
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

from ..protocol import TaskError

Input = NamedTuple("Input", [("name", str), ("dtype", str), ("shape", Tuple[int, ...])])
"""An input of a model: the numpy name of its type, and its shape, whose free axes are 1."""


Options = NamedTuple(
    "Options",
    [("threads", int), ("provider", str), ("batch", Optional[int]), ("engines", Optional[str])],
)
"""Options of loading: threads; `cpu`, `xnnpack`, `cuda` or `tensorrt`; the size of a free batch
axis (None: 1); a folder for compiled engines."""


class Session:
    """A loaded model; each runtime's own class fills these in."""

    inputs: List[Input]
    provider: str
    """The provider that runs the model, as the runtime reports it after loading."""
    wanted: str
    """The provider that was asked for: another `provider` is a fallback."""
    build_ns: Optional[int] = None
    """Time that `load` spent on compiling an engine, if one was compiled; reported separately."""
    nodes: Optional[Dict[str, int]] = None
    """Nodes of the graph per provider that ran them, where a run was made to prove it."""

    def prove(self) -> None:
        """Find out who runs the graph's nodes where `provider` alone does not say so."""

    def kernels(self) -> Optional[Tuple[int, int]]:
        """Numbers of layers that run as integers, and of all layers; None where unknown.

        Layers are convolutions and products with a matrix of weights. This runs the model.
        """
        return None

    def prepare(self, feeds: List[Any]) -> Callable[[], List[Any]]:
        """A call without arguments that runs the model on these arrays and returns its outputs."""
        raise NotImplementedError


def batch_of(shape: Any, size: Optional[int]) -> int:
    """The first axis of an input once it is loaded; TaskError where it is fixed at another."""
    fixed = shape[0] if len(shape) and isinstance(shape[0], int) and shape[0] > 0 else None
    if size is not None and fixed not in (None, size):
        raise TaskError(
            "the model's batch is fixed at %d, not %d: export it with `batch: dynamic`"
            % (fixed or 0, size)
        )
    return fixed or size or 1


def names() -> List[str]:
    """The runtimes that the agent knows, installed or not."""
    return [m.name[:-1] for m in pkgutil.iter_modules(__path__) if m.name.endswith("_")]


def module(name: str) -> Any:
    """A runtime's file; TaskError for a name that is none."""
    if name not in names():
        raise TaskError("the agent knows no runtime %r" % name)
    return importlib.import_module("%s.%s_" % (__name__, name))


def installed() -> Dict[str, Dict[str, Any]]:
    """Each known runtime with its formats and its version, or why it cannot be had."""
    return {name: _looked_at(module(name)) for name in names()}


def _looked_at(runtime: Any) -> Dict[str, Any]:
    entry: Dict[str, Any] = {"formats": list(runtime.FORMATS), "install": runtime.INSTALL}
    try:
        entry["version"] = runtime.version()
    except Exception as error:  # a broken wheel raises whatever it likes
        entry["error"] = "%s: %s" % (type(error).__name__, error)
    return entry


def choose(preferred: List[str], form: str) -> str:
    """The first wanted runtime that runs this format; TaskError says what each one lacks.

    No other is loaded: it would cost a board seconds, and count as the artifact's memory.
    """
    reasons = []
    for name in preferred:
        runtime = module(name) if name in names() else None
        if runtime is not None and form in runtime.FORMATS:
            entry = _looked_at(runtime)
            if "version" in entry:
                return name
            reasons.append("%s (%s)" % (name, entry["error"]))
    detail = ": " + "; ".join(reasons) if reasons else ""
    raise TaskError("no runtime for %s models is installed%s" % (form, detail))
