"""Pure statistics of the report: intervals, signs, time to a target, Pareto fronts.

Everything here takes arrays and returns arrays or frozen values; nothing knows of records.
"""

from ktbench.stats.fronts import Bools, geometric_mean, pareto_front
from ktbench.stats.intervals import (
    LEVEL,
    Floats,
    Interval,
    Intervals,
    Sign,
    interval,
    intervals,
    paired_gain,
    signs,
)
from ktbench.stats.targets import cost_to_reach, first_reaching, first_reaching_each

__all__ = [
    "LEVEL",
    "Bools",
    "Floats",
    "Interval",
    "Intervals",
    "Sign",
    "cost_to_reach",
    "first_reaching",
    "first_reaching_each",
    "geometric_mean",
    "interval",
    "intervals",
    "paired_gain",
    "pareto_front",
    "signs",
]
