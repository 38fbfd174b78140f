"""Plan → waves of jobs → engine → results: the only room that knows the order of the stages."""

from ktbench.runner.run import run
from ktbench.runner.state import Summary
from ktbench.runner.watch import Silent, Watcher
from ktbench.train import memory_bytes

__all__ = ["Silent", "Summary", "Watcher", "memory_bytes", "run"]
