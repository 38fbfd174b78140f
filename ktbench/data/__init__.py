"""Data sets as tensors, their three splits, and counter-based augmentation.

Samples are read into tensors, once (images as uint8). A batch is a
function of (seed, epoch, indices) alone, so any process can rebuild it.
"""

from ktbench.data.counter import counter_hash
from ktbench.data.dataset import Contents, DataInfo, Dataset, Split, describe, load
from ktbench.data.images import holds_images
from ktbench.data.stream import Stream

__all__ = [
    "Contents",
    "DataInfo",
    "Dataset",
    "Split",
    "Stream",
    "counter_hash",
    "describe",
    "holds_images",
    "load",
]
