"""What a format has to offer: to write a network down, to lower its precision, to run it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ktbench.export.deployed_network import Deployed, Layout
from ktbench.records import ExportSpec, KtbenchError

Floats = NDArray[np.float32]
Images = NDArray[np.uint8]
"""Raw images in the writer's own layout."""

CHUNK = 32
"""Calibration images that are run at once where the graph can; their activations are all kept."""


class ExportError(KtbenchError):
    """A network that a format cannot hold, in one line."""


class Writer(Protocol):
    """One format; every method is deterministic and takes and gives a file's bytes."""

    layout: Layout
    suffix: str

    def convert(self, network: Deployed, spec: ExportSpec) -> bytes:
        """The fp32 graph of a network, whatever the precision asked for."""

    def constants(self, model: bytes) -> dict[str, Floats] | None:
        """Float constants of a graph by a name or number; None where not all can be seen."""

    def fill(self, model: bytes, values: Mapping[str, Floats]) -> bytes:
        """The same graph with some constants replaced, each by as many values."""

    def lower(self, model: bytes, spec: ExportSpec, calibration: Images) -> bytes:
        """The graph in the precision asked for; int8 ranges are those of `calibration`."""

    def run(self, model: bytes, images: Images) -> Floats:
        """Logits (N, K) of raw images (N, ...), on one thread."""

    def runtime(self) -> str:
        """Name and version of what `run` runs in."""

    def versions(self) -> dict[str, str]:
        """Packages that decide the bytes written, with their versions."""

    def close(self) -> None:
        """Give back what the writer holds; it can be used again."""
