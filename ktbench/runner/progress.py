"""The contract by which a run reports its progress."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ktbench.engine.contract import Work


class Watcher(Protocol):
    """Receives the progress of a run and decides how to show it."""

    def begin(self, wave: str, total: int) -> None:
        """Start a wave of `total` units (epochs, exports, repeats)."""

    def advance(self, done: float, what: str = "") -> None:
        """Set the number of units that are done; `what` is being worked on."""

    def end(self) -> None:
        """End the current wave."""

    def note(self, text: str) -> None:
        """Show a line that is worth keeping."""


class Silent:
    """A watcher that shows nothing."""

    def __enter__(self) -> Silent:
        """Return itself; there is nothing to prepare."""
        return self

    def __exit__(self, *_: object) -> None:
        """Do nothing; there is nothing to restore."""

    def begin(self, wave: str, total: int) -> None:
        """Do nothing."""

    def advance(self, done: float, what: str = "") -> None:
        """Do nothing."""

    def end(self) -> None:
        """Do nothing."""

    def note(self, text: str) -> None:
        """Do nothing."""


class LateWave:
    """A wave that begins with the first share that is told, as it may have nothing to do."""

    def __init__(self, watcher: Watcher, wave: str, total: Callable[[], int]) -> None:
        self._watcher, self._wave, self._count = watcher, wave, total
        self._total = 0

    def tell(self, share: float) -> None:
        """Set the share that is done."""
        if not self._total:
            self._total = self._count()
            self._watcher.begin(self._wave, self._total)
        self._watcher.advance(share * self._total)

    def end(self) -> None:
        """End the wave, if it has begun."""
        if self._total:
            self._watcher.end()


class Shares:
    """The progress of a wave whose jobs may run at the same time.

    `units` is what a job counts for. A job that is run again tells smaller shares than before.
    """

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher
        self._running: dict[int, float] = {}
        self._finished = 0.0

    def tell(self, job: Work, units: float, share: float, label: str) -> None:
        """Set a job's share that is done."""
        self._running[id(job)] = share * units
        self._watcher.advance(self._finished + sum(self._running.values()), label)

    def drop(self, job: Work) -> None:
        """Forget a job that was lost; its replacement starts from what was saved."""
        self._running.pop(id(job), None)

    def finish(self, job: Work, units: float) -> None:
        """Count a job as done, however it ended."""
        self._running.pop(id(job), None)
        self._finished += units
