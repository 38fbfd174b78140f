"""ktbench: which knowledge-transfer technique gives the best small network on an edge device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from ktbench.results import load_results as load_results


def __getattr__(name: str) -> Any:
    """Import `load_results` when it is first asked for: pandas is slow to import."""
    if name == "load_results":
        from ktbench.results import load_results

        return load_results
    raise AttributeError(f"module 'ktbench' has no attribute {name!r}")
