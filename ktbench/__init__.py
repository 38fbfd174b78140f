"""ktbench: which knowledge-transfer technique gives the best small network on an edge device."""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ktbench.api.comparing import compare as compare
    from ktbench.api.measuring import measure as measure
    from ktbench.api.results import Answer as Answer
    from ktbench.api.results import Results as Results
    from ktbench.api.results import load_results as load_results
    from ktbench.api.running import plan as plan
    from ktbench.api.running import run as run

    __version__: str

_PLACES = {
    "Answer": ("ktbench.api.results", "Answer"),
    "Results": ("ktbench.api.results", "Results"),
    "compare": ("ktbench.api.comparing", "compare"),
    "load_results": ("ktbench.api.results", "load_results"),
    "measure": ("ktbench.api.measuring", "measure"),
    "plan": ("ktbench.api.running", "plan"),
    "run": ("ktbench.api.running", "run"),
    "__version__": ("ktbench.system.installation", "VERSION"),
}


def __getattr__(name: str) -> Any:
    """Import what is offered here when it is first asked for: torch and pandas are slow to."""
    if name not in _PLACES:
        raise AttributeError(f"module 'ktbench' has no attribute {name!r}")
    module, attribute = _PLACES[name]
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PLACES})


class _Room(ModuleType):
    """A room whose name is also a function's: called, it is that function."""

    def __call__(self, *arguments: Any, **settings: Any) -> Any:
        """Call the function of this name; see `help(ktbench.api)`."""
        return __getattr__(self.__name__.rpartition(".")[2])(*arguments, **settings)


class _Package(ModuleType):
    """This package. Importing a room sets it as an attribute here, over a function of its name."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _PLACES and isinstance(value, ModuleType):
            value.__class__ = _Room
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
