"""Comparison of two results folders, with intervals: `ktbench compare A B`."""

from ktbench.compare.comparison import Comparison, Limits
from ktbench.compare.pairing import compare

__all__ = ["Comparison", "Limits", "compare"]
