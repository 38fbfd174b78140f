"""Counter-based draws for some samples in one view."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ktbench.data.counter import counter_hash, evenly, numbered

CROP_Y, CROP_X, FLIP = 1, 2, 3
PART, OPERATIONS, JITTER, ERASED, MIXED = 5, 6, 7, 8, 9
"""Numbers of the random streams of what images are augmented with."""


@dataclass(frozen=True)
class Draws:
    """Draws for samples, each a function of the seed, the view and the sample's index."""

    seed: int
    view: int
    indices: NDArray[np.int64]
    """(B,)"""

    def evenly(self, purpose: int, count: int) -> NDArray[np.float64]:
        """Return `count` numbers per sample, (B, count), even in [0, 1)."""
        counters = self.indices[:, None] * count + np.arange(count)
        return evenly(counter_hash(self.seed, numbered(purpose, self.view), counters))
