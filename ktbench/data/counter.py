"""Counter-based random numbers, equal in every process."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def counter_hash(seed: int, stream: int, counter: ArrayLike) -> NDArray[np.uint64]:
    """Draw random 64-bit words, one per counter, the same in every process.

    SplitMix64's finaliser (Steele, Lea and Flood, OOPSLA 2014) over seed, stream and counter.
    """
    with np.errstate(over="ignore"):
        word = _mix(np.asarray(seed & (2**64 - 1), dtype=np.uint64))
        word = _mix(word ^ np.asarray(stream & (2**64 - 1), dtype=np.uint64))
        return _mix(word ^ np.asarray(counter).astype(np.uint64))


def evenly(words: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Turn words into numbers that lie evenly in [0, 1)."""
    return np.asarray((words >> np.uint64(11)) * 2.0**-53, dtype=np.float64)


def numbered(purpose: int, turn: int) -> int:
    """Number the random stream of one purpose (0 to 15) in an epoch or a view."""
    return turn * 16 + purpose


def _mix(word: NDArray[np.uint64]) -> NDArray[np.uint64]:
    word = word + np.uint64(0x9E3779B97F4A7C15)
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(word ^ (word >> np.uint64(31)))
