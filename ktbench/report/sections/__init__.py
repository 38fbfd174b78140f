"""The sections of the report, each a function from an `Analysis` to a `Section`."""

from ktbench.report.blockwise.section import blocks
from ktbench.report.efficiency.section import efficiency
from ktbench.report.efficiency.view_section import views
from ktbench.report.pools.section import pools
from ktbench.report.sections.cells import cells
from ktbench.report.sections.deployment import accuracy_and_cost, integrity
from ktbench.report.sections.devices import devices
from ktbench.report.sections.gains import gains
from ktbench.report.sections.learning import convergence, costs
from ktbench.report.sections.published import published
from ktbench.report.sections.run_details import fairness, troubles
from ktbench.report.sections.stability import stability

__all__ = [
    "accuracy_and_cost",
    "blocks",
    "cells",
    "convergence",
    "costs",
    "devices",
    "efficiency",
    "fairness",
    "gains",
    "integrity",
    "pools",
    "published",
    "stability",
    "troubles",
    "views",
]
