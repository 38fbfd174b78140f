"""Blockwise distillation: a teacher's blocks replaced by modules that were trained alone.

`train_blocks` makes records of trained blocks, `gather` a student's first weights of them.
"""

from ktbench.blockwise.block_timing import measured_loads
from ktbench.blockwise.block_trainer import train_blocks
from ktbench.blockwise.blocks import BlockStore, BlockTask, assembly_key, tasks_of
from ktbench.blockwise.gather import Execution, gather

__all__ = [
    "BlockStore",
    "BlockTask",
    "Execution",
    "assembly_key",
    "gather",
    "measured_loads",
    "tasks_of",
    "train_blocks",
]
