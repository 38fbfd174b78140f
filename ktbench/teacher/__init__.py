"""Where a teacher's outputs come from: the training loop cannot tell which source it has."""
