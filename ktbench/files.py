"""Files that are whole or not there: temporary name, flush, rename."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

from ktbench.records import StorageError

PREFIX = ".tmp-"
"""Temporary names start with this, so that a killed run's leftovers can be told and removed."""


def cache_folder() -> Path:
    """Where ktbench keeps what later runs can use again."""
    own = os.environ.get("KTBENCH_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ktbench"


def write_atomically(path: Path, data: bytes | str) -> None:
    """Write a file so that its name never shows half of it, even through a loss of power.

    Raises StorageError when the disk is full; what stood there before is untouched.
    """
    content = data.encode() if isinstance(data, str) else data
    temporary = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=PREFIX, dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageError(
                f"{path}: no space left on the disk: free some and run again, nothing is lost"
            ) from error
        raise StorageError(f"{path}: cannot write: {error.strerror}") from error


def _sync_folder(folder: Path) -> None:
    """Make a rename durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
