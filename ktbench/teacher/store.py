"""Trained teachers on disk, shared by every matrix of this user.

A teacher is found by everything that its weights depend on: its cell, the bytes of its data set,
torch's version and the kind of processor. The folder is `$KTBENCH_CACHE/teachers`, or
`~/.cache/ktbench/teachers`; it may be copied to another machine of the same kind.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch

from ktbench.files import write_atomically
from ktbench.records import Cell, Checkpoint, digest_of


def cache_folder() -> Path:
    """Where ktbench keeps what later runs can use again."""
    own = os.environ.get("KTBENCH_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ktbench"


class TeacherStore:
    """One folder per teacher with its weights, curves and record."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = root if root is not None else cache_folder() / "teachers"

    def folder(self, cell: Cell, data_digest: str) -> Path:
        """Where this teacher lies, trained or not."""
        name = digest_of([cell.key, data_digest, torch.__version__, platform.machine()])
        return self.root / name

    def find(self, cell: Cell, data_digest: str) -> Checkpoint | None:
        """The record of a teacher that is there and whole, else None."""
        folder = self.folder(cell, data_digest)
        try:
            found = Checkpoint.model_validate_json((folder / "checkpoint.json").read_text())
        except (OSError, ValueError):
            return None
        return found if (folder / found.path).is_file() else None

    def keep(self, cell: Cell, data_digest: str, checkpoint: Checkpoint) -> None:
        """Write the record: from now on `find` answers it."""
        folder = self.folder(cell, data_digest)
        write_atomically(folder / "checkpoint.json", checkpoint.model_dump_json(indent=1))
