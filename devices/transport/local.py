"""This machine: the agent in a fresh process, through the same protocol as on a board."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Generator, Sequence
from typing import Any

from ktbench.devices._contract import Blob, DeviceError
from ktbench.devices.transport._exchange import LOADER, Exchange


class LocalTransport:
    """Keeps the agent's files in a temporary folder until it is closed."""

    def __init__(self, python: str | None = None) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="ktbench-")
        command = [sys.executable, "-I", "-c", LOADER]
        self._exchange = Exchange(command, root=self._folder.name, python=python, explain=_explain)

    def run(self, task: dict[str, Any], blobs: Sequence[Blob], limit_s: float) -> dict[str, Any]:
        """See `Transport.run`."""
        return self._exchange.run(task, blobs, limit_s)

    def series(
        self, task: dict[str, Any], blobs: Sequence[Blob], limits: Sequence[float]
    ) -> Generator[dict[str, Any] | DeviceError, None, None]:
        """See `Transport.series`."""
        return self._exchange.series(task, blobs, limits)

    def close(self) -> None:
        """Remove the temporary folder."""
        self._folder.cleanup()


def _explain(code: int, errors: str) -> DeviceError | None:
    return None
