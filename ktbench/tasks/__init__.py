"""Tasks: what a data set's samples are, and how networks that learn them are judged."""
