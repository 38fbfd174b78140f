"""The sections of the report, each a function from an `Analysis` to a `Section`."""

from ktbench.report.analysis import Analysis
from ktbench.report.document import Section
from ktbench.report.efficiency.section import efficiency
from ktbench.report.efficiency.view_section import views
from ktbench.report.sections.cells import cells
from ktbench.report.sections.deployment import accuracy_and_cost, integrity
from ktbench.report.sections.devices import devices
from ktbench.report.sections.gains import gains
from ktbench.report.sections.learning import convergence, costs
from ktbench.report.sections.published import published
from ktbench.report.sections.run_details import fairness, troubles
from ktbench.report.sections.stability import stability
from ktbench.report.sections.techniques import techniques
from ktbench.report.sections.terms import terms

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
    "techniques",
    "terms",
    "troubles",
    "views",
]


def blocks(analysis: Analysis) -> tuple[Section, ...]:
    """Return the section on blockwise students; its wing is loaded where there are any."""
    if not any(result.start for result in analysis.results.by_key.values()):
        return ()
    from ktbench.report.blockwise.section import blocks

    return blocks(analysis)


def pools(analysis: Analysis) -> tuple[Section, ...]:
    """Return the section on pools of teachers; its wing is loaded where a pool left a history."""
    if not (analysis.results.path / "pool").is_dir():
        return ()
    from ktbench.report.pools.section import pools

    return pools(analysis)
