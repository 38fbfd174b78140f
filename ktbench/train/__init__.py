"""The one training loop, for a cohort of students."""
