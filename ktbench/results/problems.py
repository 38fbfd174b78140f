"""What does not hold in a results folder, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ktbench.records import KtbenchError, printable
from ktbench.results.storage import DamagedError

AGAIN = "run again to make it anew"


@dataclass(frozen=True)
class Problem:
    """A file that is not what was written, missing, or against what it should agree with."""

    path: str
    """Below the results folder."""
    reason: str
    remedy: str
    key: str = ""
    """The cell that it costs; empty where it is of no cell alone."""

    @classmethod
    def of(cls, error: KtbenchError, root: Path, path: Path, key: str = "") -> Problem:
        """The problem that an error of reading tells of."""
        place = path.relative_to(root).as_posix()
        if isinstance(error, DamagedError):
            return cls(place, error.reason, error.remedy, key)
        said = str(error).removeprefix(f"{path}: ")
        reason, _, remedy = said.partition(": ")
        return cls(place, reason, remedy or "restore it", key)

    @property
    def line(self) -> str:
        """All of it in one line that is safe to print."""
        return printable(f"{self.path}: {self.reason}: {self.remedy}").replace("\n", " ")
