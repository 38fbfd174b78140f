"""Optional packages, grouped by the extra of ktbench that installs them."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Literal

from ktbench.records import KtbenchError

Extra = Literal["onnx", "tflite", "hub", "text", "ray"]

PACKAGES: dict[Extra, tuple[str, ...]] = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "tflite": ("litert-torch", "ai-edge-litert", "ai-edge-quantizer"),
    "hub": ("datasets",),
    "text": ("tokenizers",),
    "ray": ("ray",),
}
"""Packages of each extra, as pip names them; `pyproject.toml` has their versions.

The two extras for exports are called like the formats that they write.
"""


def missing(extra: Extra) -> list[str]:
    """Return the packages of an extra that are not installed."""
    return [name for name in PACKAGES[extra] if find_spec(name.replace("-", "_")) is None]


def install_command(*extras: Extra) -> str:
    """Return the command that installs these extras."""
    return f"pip install 'ktbench[{','.join(sorted(extras))}]'"


def require(extra: Extra, purpose: str) -> None:
    """Raise KtbenchError, with the command to run, if a package of an extra is not installed."""
    if packages := missing(extra):
        verb = "is" if len(packages) == 1 else "are"
        raise KtbenchError(
            f"{purpose} needs {', '.join(packages)}, which {verb} not installed: "
            f"{install_command(extra)}"
        )
