"""The one training loop, for a cohort of students."""

from ktbench.train.cohort import adopt, checkpoint_interval, train_cohort
from ktbench.train.cohort_steps import Progress
from ktbench.train.memory_budget import memory_bytes
from ktbench.train.start import Places

__all__ = ["Places", "Progress", "adopt", "checkpoint_interval", "memory_bytes", "train_cohort"]
