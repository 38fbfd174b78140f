"""Work in child processes that are watched: a crash, an exit or a hang costs the work alone.

Anything may use this room; it knows nothing of what the work is. `Child` is a warm process for
many pieces of work, `mark` tells whoever watches what is being worked on.
"""

from ktbench.supervision.child import Child, Died
from ktbench.supervision.ending import Ended
from ktbench.supervision.marks import Mark, allow, mark, marked, say

__all__ = ["Child", "Died", "Ended", "Mark", "allow", "mark", "marked", "say"]
