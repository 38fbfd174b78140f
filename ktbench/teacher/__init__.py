"""Sources of a teacher's outputs, all alike to the training loop."""
