"""What a run tells whoever looks on."""

from __future__ import annotations

from typing import Protocol


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
