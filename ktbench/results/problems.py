"""A damaged file of a results folder, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ktbench.records import KtbenchError, printable
from ktbench.results.storage import DamagedError

AGAIN = "run again to replace it"


@dataclass(frozen=True)
class Problem:
    """A file that is not what was written, missing, or against what it should agree with."""

    path: str
    """Path relative to the results folder."""
    reason: str
    remedy: str
    key: str = ""
    """Key of the cell that it costs; empty where it belongs to no single cell."""

    @classmethod
    def of(cls, error: KtbenchError, root: Path, path: Path, key: str = "") -> Problem:
        """The problem behind an error that reading raised."""
        place = path.relative_to(root).as_posix()
        if isinstance(error, DamagedError):
            return cls(place, error.reason, error.remedy, key)
        message = str(error).removeprefix(f"{path}: ")
        reason, _, remedy = message.partition(": ")
        return cls(place, reason, remedy or "restore it", key)

    @property
    def line(self) -> str:
        """The problem in one line that is safe to print."""
        return printable(f"{self.path}: {self.reason}: {self.remedy}").replace("\n", " ")
