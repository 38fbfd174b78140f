"""What can run an artifact on a board: one runtime per file, imported when it is asked for.

A file `<name>_.py` (the underscore keeps it from hiding the package it wraps) defines `FORMATS`,
`INSTALL` (what to install), `version()`, which raises ImportError where the runtime is not
installed, and `load(path, threads)`, which returns a `Session`.
"""

import importlib
import pkgutil
from typing import Any, Callable, Dict, List, NamedTuple, Tuple

from ..protocol import TaskError

Input = NamedTuple("Input", [("name", str), ("dtype", str), ("shape", Tuple[int, ...])])
"""What a model takes: a numpy name of the type, and a shape whose free axes are 1."""


class Session:
    """A loaded model; each runtime's own class fills these in."""

    inputs: List[Input]
    provider: str
    """What really runs the model, as the runtime tells it after loading."""
    wanted: str
    """What was asked to run it: another `provider` is a fallback."""

    def prepare(self, feeds: List[Any]) -> Callable[[], List[Any]]:
        """A call without arguments that runs the model on these arrays and returns its outputs."""
        raise NotImplementedError


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
    found = {}
    for name in names():
        runtime = module(name)
        entry: Dict[str, Any] = {
            "formats": list(runtime.FORMATS),
            "install": runtime.INSTALL,
        }
        try:
            entry["version"] = runtime.version()
        except Exception as error:  # a broken wheel raises whatever it likes
            entry["error"] = "%s: %s" % (type(error).__name__, error)
        found[name] = entry
    return found


def choose(wanted: List[str], form: str) -> str:
    """The first wanted runtime that runs this format; TaskError says what each one lacks."""
    known = installed()
    reasons = []
    for name in wanted:
        entry = known.get(name, {})
        if form in entry.get("formats", ()):
            if "version" in entry:
                return name
            reasons.append("%s (%s)" % (name, entry["error"]))
    detail = ": " + "; ".join(reasons) if reasons else ""
    raise TaskError("no runtime for %s models is installed%s" % (form, detail))
