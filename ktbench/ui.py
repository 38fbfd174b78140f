"""How a run shows itself: bars with the time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class Bars:
    """A bar per wave, with what is being worked on and an estimate of the time left."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description:<11}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("[dim]{task.fields[what]}", table_column=None),
            console=console,
            refresh_per_second=4,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> Bars:
        """Start drawing."""
        self._progress.start()
        return self

    def __exit__(self, *_: Any) -> None:
        """Leave the terminal as it was."""
        self._progress.stop()

    def begin(self, wave: str, total: int) -> None:
        """See `Watcher`."""
        self._task = self._progress.add_task(wave, total=total, what="")

    def advance(self, done: float, what: str = "") -> None:
        """See `Watcher`."""
        if self._task is not None:
            self._progress.update(self._task, completed=done, what=what)

    def end(self) -> None:
        """See `Watcher`."""
        if self._task is not None:
            total = self._progress.tasks[self._task].total
            self._progress.update(self._task, completed=total, what="")
        self._task = None

    def note(self, text: str) -> None:
        """See `Watcher`."""
        self._progress.console.print(text, highlight=False, markup=False)


class Lines:
    """A line at a wave's start and end, and one every ten seconds in between."""

    EVERY_S = 10.0

    def __init__(self, stream: Any = None) -> None:
        self._stream = stream or sys.stderr
        self._wave, self._total = "", 0
        self._began = self._told = 0.0

    def __enter__(self) -> Lines:
        """Nothing to prepare."""
        return self

    def __exit__(self, *_: Any) -> None:
        """Nothing to restore."""

    def begin(self, wave: str, total: int) -> None:
        """See `Watcher`."""
        self._wave, self._total = wave, total
        self._began = self._told = time.monotonic()
        self.note(f"{wave}: {total} to do")

    def advance(self, done: float, what: str = "") -> None:
        """See `Watcher`."""
        now = time.monotonic()
        if now - self._told < self.EVERY_S or not done:
            return
        self._told = now
        left = (now - self._began) * (self._total - done) / done
        self.note(f"{self._wave}: {done:.0f} of {self._total}, about {left:.0f} s left, {what}")

    def end(self) -> None:
        """See `Watcher`."""
        self.note(f"{self._wave}: done in {time.monotonic() - self._began:.1f} s")

    def note(self, text: str) -> None:
        """See `Watcher`."""
        print(text, file=self._stream, flush=True)
