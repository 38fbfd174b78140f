"""The contract of formats: convert a network, lower its precision, run the file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ktbench.export.deployed_network import Deployed, Layout
from ktbench.records import ExportSpec, KtbenchError

Floats = NDArray[np.float32]
Arrays = dict[str, NDArray[Any]]
"""Raw samples (N, ...) in the writer's own layout, by the input's name."""

CHUNK = 32
"""Calibration samples per run, if the graph can; all of their activations are kept."""


class ExportError(KtbenchError):
    """A network that a format cannot hold, explained in one line."""


class Writer(Protocol):
    """One format; every method is deterministic and works on a file's bytes."""

    layout: Layout
    suffix: str

    def convert(self, network: Deployed, spec: ExportSpec) -> bytes:
        """Return the fp32 graph of a network, whatever precision was asked for."""

    def constants(self, model: bytes) -> dict[str, Floats] | None:
        """Return float constants of a graph by name or number; None if not all are visible."""

    def fill(self, model: bytes, values: Mapping[str, Floats]) -> bytes:
        """Return the same graph with some constants replaced, each by as many values."""

    def lower(
        self, model: bytes, spec: ExportSpec, calibration: Arrays | None, *, front: bool = False
    ) -> bytes:
        """Return the graph in the precision asked for.

        `calibration` gives the ranges of static int8; without it int8 is dynamic: weights are
        stored so, and the runtime finds the ranges of what they are multiplied with. With a front,
        all up to the first logarithm stays in floats: powers span more than 16 bits.
        """

    def run(self, model: bytes, samples: Arrays) -> Floats:
        """Return logits (N, K) of raw samples (N, ...), computed on one thread."""

    def runtime(self) -> str:
        """Return name and version of the runtime of `run`."""

    def versions(self) -> dict[str, str]:
        """Return the packages that decide the bytes written, with their versions."""

    def close(self) -> None:
        """Release what the writer holds; it can be used again."""
