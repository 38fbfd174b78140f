"""The blockwise wing: its wave of jobs, and the search over trained blocks; loaded on demand."""
