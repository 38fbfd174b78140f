"""What a run tells whoever looks on."""

from __future__ import annotations

from typing import Protocol

from ktbench.engine.contract import Work


class Watcher(Protocol):
    """Hears what happens; decides how to show it."""

    def begin(self, wave: str, total: int) -> None:
        """A wave of `total` units starts (epochs, exports, repeats)."""

    def advance(self, done: float, what: str = "") -> None:
        """So many units of the current wave are done; `what` is being worked on."""

    def end(self) -> None:
        """The current wave is over."""

    def note(self, text: str) -> None:
        """One line worth keeping."""


class Silent:
    """A watcher that shows nothing."""

    def __enter__(self) -> Silent:
        """Nothing to prepare."""
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to restore."""

    def begin(self, wave: str, total: int) -> None:
        """Nothing."""

    def advance(self, done: float, what: str = "") -> None:
        """Nothing."""

    def end(self) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""


class Shares:
    """The progress of a wave whose jobs may run at the same time.

    `units` is what a job counts for. A job that is run again tells smaller shares than before.
    """

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher
        self._running: dict[int, float] = {}
        self._finished = 0.0

    def tell(self, job: Work, units: float, share: float, label: str) -> None:
        """A job has come so far."""
        self._running[id(job)] = share * units
        self._watcher.advance(self._finished + sum(self._running.values()), label)

    def drop(self, job: Work) -> None:
        """A job came to nothing; what it is replaced by starts from what was saved."""
        self._running.pop(id(job), None)

    def finish(self, job: Work, units: float) -> None:
        """A job is over, however it ended."""
        self._running.pop(id(job), None)
        self._finished += units
