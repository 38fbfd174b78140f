"""The contract of formats: convert a network, lower its precision, run the file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ktbench.export.deployed_network import Deployed, Layout
from ktbench.export.ranges import Histogram
from ktbench.records import ExportSpec, KtbenchError

Floats = NDArray[np.float32]
Arrays = dict[str, NDArray[Any]]
"""Raw samples (N, ...) in the writer's own layout, by the input's name."""

CHUNK = 32
"""Calibration samples per run, if the graph can; all of their activations are kept."""


@dataclass(frozen=True)
class GraphLayer:
    """A convolution or a product with a matrix of weights, in a file's graph."""

    constant: str
    """Name or number of its weights."""
    quantised: bool
    """True where both factors are integers."""


@dataclass(frozen=True)
class Lowering:
    """Settings of a lower precision that depend on the graph at hand.

    Layers go by their position in `Writer.layers`.
    """

    front: bool = False
    """Leave all up to the first logarithm in floats: powers span more than 16 bits."""
    keep: tuple[int, ...] = ()
    """Layers that stay in floats."""
    only: int | None = None
    """The one layer that is quantised; all where not given."""
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Ranges of int8 activations by tensor, in place of their least and greatest value."""


WHOLE = Lowering()
"""Everything is lowered, with the ranges that the samples give."""


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

    def layers(self, model: bytes) -> list[GraphLayer]:
        """Return the layers of a graph, in the order in which they run."""

    def histograms(self, model: bytes, calibration: Arrays) -> dict[str, Histogram]:
        """Return the values of each inner float tensor of an fp32 graph, by its name."""

    def lower(
        self, model: bytes, spec: ExportSpec, calibration: Arrays | None, how: Lowering = WHOLE
    ) -> bytes:
        """Return the graph in the precision asked for.

        `calibration` gives the ranges of static int8; without it int8 is dynamic: weights are
        stored so, and the runtime finds the ranges of what they are multiplied with.
        """

    def run(self, model: bytes, samples: Arrays) -> Floats:
        """Return logits (N, K) of raw samples (N, ...), computed on one thread."""

    def runtime(self) -> str:
        """Return name and version of the runtime of `run`."""

    def versions(self) -> dict[str, str]:
        """Return the packages that decide the bytes written, with their versions."""

    def close(self) -> None:
        """Release what the writer holds; it can be used again."""
