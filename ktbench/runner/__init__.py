"""Plan → waves of jobs → engine → results: the only room that knows the order of the stages."""

from ktbench.runner.context import Summary
from ktbench.runner.plan_in_child import Planned, plan_matrix
from ktbench.runner.preflight import missing_extras
from ktbench.runner.progress import Silent, Watcher
from ktbench.runner.run import run
from ktbench.runner.selection import only_cells
from ktbench.train import memory_bytes

__all__ = [
    "Planned",
    "Silent",
    "Summary",
    "Watcher",
    "memory_bytes",
    "missing_extras",
    "only_cells",
    "plan_matrix",
    "run",
]
