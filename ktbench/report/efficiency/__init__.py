"""Training efficiency in the report: speedup at equal quality, windows, reused views."""
