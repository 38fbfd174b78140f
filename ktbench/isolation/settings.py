"""Snapshots of process-wide settings, which put back what has changed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Setting:
    """A setting of the process: what users know it as, its reader and its writer."""

    name: str
    read: Callable[[], Any]
    write: Callable[[Any], object]
    noted: bool = True
    """True where a change is told; torch changes the others itself when it loads late parts."""


class Settings:
    """A snapshot of some settings' values."""

    def __init__(self, settings: tuple[Setting, ...]) -> None:
        self._settings = settings
        self._values = [setting.read() for setting in settings]

    def put_back(self) -> list[str]:
        """Put back what has changed; return the names of those changes that are to be told."""
        if self._same():
            return []
        changed = []
        for setting, value in zip(self._settings, self._values, strict=True):
            if setting.read() != value:
                # What cannot be put back (a folder that has gone) must not stop the others.
                with suppress(Exception):
                    setting.write(value)
                if setting.noted:
                    changed.append(setting.name)
        return changed

    def _same(self) -> bool:
        return [setting.read() for setting in self._settings] == self._values
