"""Plan → waves of jobs → engine → results: the only room that knows the order of the stages."""

from ktbench.runner.planning import Planned, plan_matrix
from ktbench.runner.run import run
from ktbench.runner.state import Summary
from ktbench.runner.watch import Silent, Watcher
from ktbench.train import memory_bytes

__all__ = ["Planned", "Silent", "Summary", "Watcher", "memory_bytes", "plan_matrix", "run"]
