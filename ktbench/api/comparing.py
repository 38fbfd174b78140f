"""Comparing two results folders from Python."""

from __future__ import annotations

from pathlib import Path

from ktbench.compare import Comparison, Limits
from ktbench.compare import compare as compare_folders


def compare(
    before: Path | str,
    after: Path | str,
    *,
    accuracy_drop: float = 0.0,
    latency_rise: float = 10.0,
) -> Comparison:
    """Compare two results folders, packed or not: what changed from one to the other.

    Clear losses of accuracy up to `accuracy_drop` points (or of another metric, in its unit) and
    rises of latency up to `latency_rise` percent are no regressions. Raises KtbenchError where the
    two cannot be compared.
    """
    limits = Limits(accuracy_drop, latency_rise)
    return compare_folders(Path(before), Path(after), limits)
