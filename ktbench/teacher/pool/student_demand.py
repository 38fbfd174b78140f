"""Students as the dispatcher knows them: what they wait for, what is ready, how fast they take."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

_TAKES = 16


@dataclass(slots=True)
class StudentState:
    """One training that asks for a teacher's outputs."""

    name: str
    served: int = 0
    """Tasks that workers were sent for it: who has had the fewest comes next."""
    waiting: list[int] = field(default_factory=list)
    """Tasks that no worker holds, in the order of need."""
    open: set[int] = field(default_factory=set)
    """All that it has asked for and not taken."""
    ready: set[int] = field(default_factory=set)
    """Answered and not yet taken."""
    taken: int = 0
    takes: deque[float] = field(default_factory=lambda: deque(maxlen=_TAKES))
    """When it took its last answers."""

    def take(self, now: float) -> None:
        """One answer was taken."""
        self.taken += 1
        self.takes.append(now)

    def buffered(self) -> int:
        """Answers that it can take now: those before the first that is still missing."""
        missing = min((t for t in self.open if t not in self.ready), default=None)
        return len(self.ready) if missing is None else sum(t < missing for t in self.ready)

    def rate(self) -> float:
        """Answers that it takes per second; 0 where that is not known yet."""
        if len(self.takes) < 2 or self.takes[-1] <= self.takes[0]:
            return 0.0
        return (len(self.takes) - 1) / (self.takes[-1] - self.takes[0])
