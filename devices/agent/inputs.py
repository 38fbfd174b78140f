"""Arrays to run a model on: those that the host sent, or random ones that are always the same."""

from typing import Any, List

import numpy as np

from .protocol import TaskError
from .runtimes import Input

SEED = 20150310
RANDOM_INPUTS = 4


def read(path: str) -> Any:
    """A stack of inputs (N, ...) from a .npy file; nothing is unpickled."""
    array = np.load(path, allow_pickle=False)
    if array.ndim < 2 or not len(array):
        raise TaskError("the inputs are no stack of arrays: shape %s" % (array.shape,))
    return array


def batches(array: Any, specs: List[Input], batch: int) -> List[List[Any]]:
    """The stack cut into the model's batches; the last one is filled up by repeating."""
    if len(specs) != 1:
        raise TaskError("the model takes %d inputs, one was sent" % len(specs))
    spec = specs[0]
    if array.shape[1:] != spec.shape[1:]:
        raise TaskError("the model takes %s, the inputs are %s" % (spec.shape[1:], array.shape[1:]))
    feeds = []
    for start in range(0, len(array), batch):
        rows = np.arange(start, start + batch) % len(array)
        feeds.append([np.ascontiguousarray(array[rows], dtype=spec.dtype)])
    return feeds


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
