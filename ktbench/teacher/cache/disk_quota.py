"""Disk quota with LRU eviction for cached teacher outputs."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ktbench.system.files import PREFIX

_USED = "used"
_STALE_S = 3600.0


class DiskQuota:
    """A cap on the folders of cached outputs in `root`."""

    def __init__(self, root: Path, cap: int) -> None:
        """`cap` is in bytes."""
        self.root = root
        self.cap = cap

    def admit(self, folder: Path, size: int) -> bool:
        """Make room for `size` more bytes in a folder; False where they do not fit.

        Other folders are removed, the least recently used first; this one is marked as used.
        Processes that still read a removed file keep it until they close it: files are unlinked,
        never truncated. Raises OSError where nothing can be written.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        with self._alone():
            folder.mkdir(exist_ok=True)
            (folder / _USED).touch()
            sizes = {each: _bytes(each) for each in self._folders()}
            excess = sum(sizes.values()) + size - self.cap
            if size and size + sizes.get(folder, 0) > self.cap:
                return False
            for other in sorted(sizes, key=_last_use):
                if excess <= 0:
                    break
                if other != folder:
                    remove(other)
                    excess -= sizes[other]
            return excess <= 0 or not size

    def _folders(self) -> list[Path]:
        return [folder for folder in self.root.iterdir() if folder.is_dir()]

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One process at a time; where the file system has no locks, several."""
        handle = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            with suppress(OSError):
                fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)  # which frees the lock


def remove(folder: Path) -> None:
    """Unlink a folder's files, and the folder where nobody adds to it meanwhile."""
    with suppress(OSError):
        for file in folder.iterdir():
            with suppress(OSError):
                file.unlink()
        folder.rmdir()


def _bytes(folder: Path) -> int:
    """Return the size of a folder's files; what a killed process left half-written is removed."""
    total = 0
    with suppress(OSError):
        for file in folder.iterdir():
            with suppress(OSError):
                status = file.stat()
                if file.name.startswith(PREFIX) and time.time() - status.st_mtime > _STALE_S:
                    file.unlink()
                else:
                    total += status.st_size
    return total


def _last_use(folder: Path) -> float:
    for place in (folder / _USED, folder):
        with suppress(OSError):
            return place.stat().st_mtime
    return 0.0
