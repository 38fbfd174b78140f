"""The one training loop, for a cohort of students."""

from ktbench.train.cohort import Places, Progress, adopt, checkpoint_interval, train_cohort

__all__ = ["Places", "Progress", "adopt", "checkpoint_interval", "train_cohort"]
