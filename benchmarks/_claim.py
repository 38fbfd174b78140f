"""The outcome that a benchmark returns."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Outcome:
    """A measured figure beside its bar; `held` says whether the claim stands."""

    figure: str
    bar: str
    held: bool

    def line(self, name: str) -> str:
        """The last line that a benchmark prints."""
        verdict = "held" if self.held else "fell short"
        return f"{name}: {self.figure} (bar {self.bar}): {verdict}"
