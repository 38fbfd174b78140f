"""Room on the disk for kept outputs: a cap over all of them, the least recently used make room."""

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


class Room:
    """The folder of all kept outputs of a user: one folder each."""

    def __init__(self, root: Path, cap: int) -> None:
        """`cap` in bytes."""
        self.root = root
        self.cap = cap

    def admit(self, own: Path, wanted: int) -> bool:
        """Whether `wanted` more bytes fit in; other folders go for them, the oldest in use first.

        `own` is marked as used and stays. Whoever still reads what is removed here keeps it until
        it closes it: files are unlinked, never cut. Raises OSError where nothing can be written.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        with self._alone():
            own.mkdir(exist_ok=True)
            (own / _USED).touch()
            folders = {folder: _bytes(folder) for folder in self._folders()}
            excess = sum(folders.values()) + wanted - self.cap
            if wanted and wanted + folders.get(own, 0) > self.cap:
                return False
            for folder in sorted(folders, key=_last_use):
                if excess <= 0:
                    break
                if folder != own:
                    remove(folder)
                    excess -= folders[folder]
            return excess <= 0 or not wanted

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
    """Of a folder's files, as large as they will be; what a killed process left half is removed."""
    total = 0
    with suppress(OSError):
        for file in folder.iterdir():
            with suppress(OSError):
                found = file.stat()
                if file.name.startswith(PREFIX) and time.time() - found.st_mtime > _STALE_S:
                    file.unlink()
                else:
                    total += found.st_size
    return total


def _last_use(folder: Path) -> float:
    for place in (folder / _USED, folder):
        with suppress(OSError):
            return place.stat().st_mtime
    return 0.0
