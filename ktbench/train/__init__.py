"""The one training loop, for a cohort of students."""

from ktbench.train.cohort import adopt, train_cohort
from ktbench.train.context import Places, Progress, TrainingContext, checkpoint_interval
from ktbench.train.memory_budget import memory_bytes

__all__ = [
    "Places",
    "Progress",
    "TrainingContext",
    "adopt",
    "checkpoint_interval",
    "memory_bytes",
    "train_cohort",
]
