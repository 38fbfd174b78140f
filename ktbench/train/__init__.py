"""The one training loop, for a cohort of students."""

from ktbench.train.budget import memory_bytes
from ktbench.train.cohort import adopt, checkpoint_interval, train_cohort
from ktbench.train.opening import Places
from ktbench.train.together import Progress

__all__ = ["Places", "Progress", "adopt", "checkpoint_interval", "memory_bytes", "train_cohort"]
