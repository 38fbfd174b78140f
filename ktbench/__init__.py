"""ktbench: which knowledge-transfer technique gives the best small network on an edge device."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ktbench.results import load_results as load_results

    __version__: str

_PLACES = {
    "load_results": ("ktbench.results", "load_results"),
    "__version__": ("ktbench.system.installation", "VERSION"),
}


def __getattr__(name: str) -> Any:
    """Import what is offered here when it is first asked for: pandas is slow to import."""
    if name not in _PLACES:
        raise AttributeError(f"module 'ktbench' has no attribute {name!r}")
    module, attribute = _PLACES[name]
    return getattr(import_module(module), attribute)
