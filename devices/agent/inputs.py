"""Arrays to run a model on: those that the host sent, or random ones that are always the same."""

from typing import Any, Dict, List

import numpy as np

from .protocol import TaskError
from .runtimes import Input

SEED = 20150310
RANDOM_INPUTS = 4


Stacks = Dict[str, Any]
"""Stacks of inputs (N, ...) by the name of the input; the only one may have no name."""


def read(path: str) -> Stacks:
    """Stacks of inputs from a file in numpy's format; nothing is unpickled.

    The file holds one stack, or the names of several and then each of them.
    """
    with open(path, "rb") as file:
        first = np.load(file, allow_pickle=False)
        if first.dtype.kind == "U":
            stacks = {str(name): np.load(file, allow_pickle=False) for name in first}
        else:
            stacks = {"": first}
    for array in stacks.values():
        if array.ndim < 2 or not len(array) or len(array) != len(next(iter(stacks.values()))):
            raise TaskError("the inputs are no stack of arrays: shape %s" % (array.shape,))
    return stacks


def count(stacks: Stacks) -> int:
    """Number of inputs that the stacks hold."""
    return len(next(iter(stacks.values())))


def rows(stacks: Stacks, start: int, stop: int) -> Stacks:
    """Some of the inputs."""
    return {name: array[start:stop] for name, array in stacks.items()}


def batches(stacks: Stacks, specs: List[Input], batch: int) -> List[List[Any]]:
    """The stacks cut into the model's batches; the last one is filled up by repeating."""
    chosen = [(_stack(stacks, spec, len(specs)), spec) for spec in specs]
    for array, spec in chosen:
        if array.shape[1:] != spec.shape[1:]:
            raise TaskError(
                "the model takes %s, the inputs are %s" % (spec.shape[1:], array.shape[1:])
            )
    feeds = []
    for start in range(0, count(stacks), batch):
        places = np.arange(start, start + batch) % count(stacks)
        feeds.append(
            [np.ascontiguousarray(array[places], dtype=spec.dtype) for array, spec in chosen]
        )
    return feeds


def _stack(stacks: Stacks, spec: Input, wanted: int) -> Any:
    """The stack of a model's input: the only one, or the one of its name."""
    if len(stacks) == 1 and wanted == 1:
        return next(iter(stacks.values()))
    # TensorFlow Lite calls an input `serving_default_ids:0`.
    name = spec.name.split(":")[0].replace("serving_default_", "")
    if len(stacks) != wanted or name not in stacks:
        raise TaskError(
            "the model takes %d inputs, %s among them; sent were %s"
            % (wanted, name, ", ".join(sorted(stacks)) or len(stacks))
        )
    return stacks[name]


def random(specs: List[Input]) -> List[List[Any]]:
    """A few batches of random inputs for any model, the same on every board.

    Floats lie in [0, 1), small integers anywhere, indices (int32, int64) are 0 or 1, as their
    range is not known.
    """
    state = np.random.RandomState(SEED)
    return [[_random(state, spec) for spec in specs] for _ in range(RANDOM_INPUTS)]


def _random(state: Any, spec: Input) -> Any:
    kind = np.dtype(spec.dtype)
    if kind.kind == "f":
        return state.random_sample(spec.shape).astype(kind)
    if kind.itemsize == 1 and kind.kind in "iu":
        info = np.iinfo(kind)
        return state.randint(info.min, info.max + 1, spec.shape).astype(kind)
    return state.randint(0, 2, spec.shape).astype(kind)
