"""Plan → waves of jobs → engine → results: the only room that knows the order of the stages."""

from ktbench.runner.run import Summary, run
from ktbench.runner.watch import Silent, Watcher

__all__ = ["Silent", "Summary", "Watcher", "run"]
