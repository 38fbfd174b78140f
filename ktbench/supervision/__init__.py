"""Supervised child processes: a crash, an exit or a hang costs the work alone.

Any room may use this one; it knows nothing of what the work is. `Child` is a warm process for many
pieces of work; in it, `mark` tells the parent what is being worked on.
"""

from ktbench.supervision.child import Child, Died
from ktbench.supervision.ending import Ended
from ktbench.supervision.marks import Mark, allow, mark, marked, say

__all__ = ["Child", "Died", "Ended", "Mark", "allow", "mark", "marked", "say"]
