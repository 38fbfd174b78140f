"""What a device is: pure data. A file of this folder defines `PROFILE: Profile`.

Addresses come from the user's SSH configuration or the matrix, never from here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Profile:
    """A kind of board: how it is reached, what it can run, what it can tell about itself."""

    title: str
    transport: Literal["local", "ssh"]
    architectures: tuple[str, ...]
    """As `platform.machine()` on the board says; empty accepts any."""
    runtimes: tuple[str, ...] = ("onnxruntime", "tflite")
    """Names of `devices/agent/runtimes/`, tried in this order for a format."""
    sensors: tuple[str, ...] = ()
    """Names of the agent's board readers that this kind of board should have."""
    max_opset: int = 18
    setup: tuple[tuple[str, ...], ...] = ()
    """Commands as argument lists, run before measuring; nothing is run unless the user asks."""
    restore: tuple[tuple[str, ...], ...] = ()
    """Commands that undo `setup`."""
    emulated: bool = False
    """True where figures say nothing about a real board."""
