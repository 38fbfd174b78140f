"""Augmentations of photographs, each for a whole batch at once.

What happens to a sample is a function of the seed, the view and the sample's index: the same in
every batch and every process. Between the first and the last change, images are planes (B, C, H, W)
of uint8, with one channel (grey) or three: torch's loops are long and simple there.
"""

from ktbench.data.augmentations.changes import Changes

__all__ = ["Changes"]
