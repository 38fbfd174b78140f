"""A graph converted once per architecture, into which each student's weights are filled.

Converting takes a second or more, filling some milliseconds. A template is used only if every
float constant of the graph is known to be either a copy (with its axes permuted) of one tensor of
the network, or the same for any weights; otherwise each student is converted on its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from ktbench.export.deployed_network import Deployed, State, probe
from ktbench.export.writer import Floats, Writer
from ktbench.records import ExportSpec


@dataclass(frozen=True)
class Slot:
    """The place of a network's tensor in the graph, and the permutation of its axes there."""

    constant: str
    tensor: str
    axes: tuple[int, ...]


@dataclass(frozen=True)
class Template:
    """A converted graph and the slots that a student's tensors go to."""

    model: bytes
    slots: tuple[Slot, ...]

    def fill(self, writer: Writer, state: State) -> bytes:
        """Return the graph with these weights."""
        values = {s.constant: state[s.tensor].transpose(s.axes) for s in self.slots}
        return writer.fill(self.model, values)


def make_template(writer: Writer, network: Deployed, spec: ExportSpec) -> Template | None:
    """Return the template of a network's architecture; None if it cannot be trusted.

    It is made from random weights, so it does not depend on the student. Constants that are not a
    copy of a tensor are compared between two conversions with different weights.
    """
    one = probe(network, seed=1)
    model = writer.convert(one, spec)
    constants = writer.constants(model)
    if constants is None:
        return None
    slots, unexplained = match(constants, one.state())
    if unexplained:
        two = probe(network, seed=2)
        others = writer.constants(writer.convert(two, spec))
        if others is None or others.keys() != constants.keys():
            return None
        if match(others, two.state())[0] != slots:
            return None
        if any(not np.array_equal(constants[name], others[name]) for name in unexplained):
            return None
    return Template(model, slots)


def match(
    constants: Mapping[str, Floats], state: State
) -> tuple[tuple[Slot, ...], tuple[str, ...]]:
    """Return slots of the constants that copy a tensor, and the names of the others."""
    by_content: dict[bytes, list[str]] = {}
    for name, tensor in state.items():
        by_content.setdefault(_content(tensor), []).append(name)
    slots, unexplained = [], []
    for constant, values in constants.items():
        names = by_content.get(_content(values), [])
        axes = _axes(state[names[0]], values) if len(names) == 1 else None
        if axes is None:
            unexplained.append(constant)
        else:
            slots.append(Slot(constant, names[0], axes))
    return tuple(slots), tuple(unexplained)


def _content(values: Floats) -> bytes:
    """Return the sorted values, which are equal for a tensor and its transposition."""
    return np.sort(values, axis=None).tobytes()


def _axes(tensor: Floats, values: Floats) -> tuple[int, ...] | None:
    flat = values.ravel()
    for axes in permutations(range(tensor.ndim)):
        if np.array_equal(tensor.transpose(axes).ravel(), flat):
            return axes
    return None
