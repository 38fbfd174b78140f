"""Augmentations of photographs, each for a whole batch at once.

Images are uint8 (B, H, W, C), with one channel (grey) or three. What happens to a sample is a
function of the seed, the view and the sample's index: the same in every batch and every process.
"""

from ktbench.data.augmentations.changes import Changes

__all__ = ["Changes"]
