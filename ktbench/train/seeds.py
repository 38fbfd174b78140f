"""Seeds of a training's random draws, one per purpose."""

from __future__ import annotations

from ktbench.data import counter_hash

FIRST_WEIGHTS, ADAPTORS, STEP = 101, 102, 103
EVALUATION = 105  # 104 draws the teachers of a step
"""Purposes; every weight depends on these numbers."""


def derived_seed(seed: int, purpose: int) -> int:
    """Return a 63-bit seed for one purpose, unrelated to those of other purposes."""
    return int(counter_hash(seed, purpose, 0)) >> 1
