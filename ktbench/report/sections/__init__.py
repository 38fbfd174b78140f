"""The sections of the report, each a function from an `Analysis` to a `Section`."""

from ktbench.report.sections.deployment import accuracy_and_cost, devices, integrity
from ktbench.report.sections.learning import convergence, costs, gains
from ktbench.report.sections.run import fairness, troubles

__all__ = [
    "accuracy_and_cost",
    "convergence",
    "costs",
    "devices",
    "fairness",
    "gains",
    "integrity",
    "troubles",
]
