"""Progress of a run: bars with the time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
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
from rich.table import Column

from ktbench.records import printable

if TYPE_CHECKING:
    from ktbench.data import DataInfo
    from ktbench.records import Failure, Plan
    from ktbench.runner import Summary


class Bars:
    """Draws a bar per wave, with what is being worked on and an estimate of the time left."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self.progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description:<11}"),
            BarColumn(bar_width=28 if console.width >= 100 else 14),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            # What is left of the line, however long the label: the figures keep their room.
            TextColumn(
                "[dim]{task.fields[what]}",
                table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"),
            ),
            expand=True,
            console=console,
            refresh_per_second=4,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> Bars:
        """Start drawing."""
        self.progress.start()
        return self

    def __exit__(self, *_: Any) -> None:
        """Leave the terminal as it was."""
        self.progress.stop()

    def begin(self, wave: str, total: int) -> None:
        """See `Watcher`."""
        self._task = self.progress.add_task(wave, total=total, what="")

    def advance(self, done: float, what: str = "") -> None:
        """See `Watcher`."""
        if self._task is not None:
            self.progress.update(self._task, completed=done, what=escape(printable(what)))

    def end(self) -> None:
        """See `Watcher`."""
        if self._task is not None:
            total = self.progress.tasks[self._task].total
            self.progress.update(self._task, completed=total, what="")
        self._task = None

    def note(self, text: str) -> None:
        """See `Watcher`."""
        self.progress.console.print(printable(text), highlight=False, markup=False)


class Lines:
    """Prints a line at a wave's start and end, and one every ten seconds in between."""

    EVERY_S = 10.0

    def __init__(self, stream: Any = None) -> None:
        self._stream = stream or sys.stderr
        self._wave, self._total = "", 0
        self._began = self._last_line = 0.0

    def __enter__(self) -> Lines:
        """Return itself; there is nothing to prepare."""
        return self

    def __exit__(self, *_: Any) -> None:
        """Do nothing; there is nothing to restore."""

    def begin(self, wave: str, total: int) -> None:
        """See `Watcher`."""
        self._wave, self._total = wave, total
        self._began = self._last_line = time.monotonic()
        self.note(f"{wave}: {total} to do")

    def advance(self, done: float, what: str = "") -> None:
        """See `Watcher`."""
        now = time.monotonic()
        if now - self._last_line < self.EVERY_S or not done:
            return
        self._last_line = now
        left = (now - self._began) * (self._total - done) / done
        self.note(f"{self._wave}: {done:.0f} of {self._total}, about {left:.0f} s left, {what}")

    def end(self) -> None:
        """See `Watcher`."""
        self.note(f"{self._wave}: done in {time.monotonic() - self._began:.1f} s")

    def note(self, text: str) -> None:
        """See `Watcher`."""
        print(printable(text), file=self._stream, flush=True)


# ---------------------------------------------------------------- before and after a run


def announce(
    plan: Plan,
    data: Sequence[DataInfo],
    folder: Path,
    console: Console,
    chosen: Collection[str] | None = None,
) -> None:
    """Print what is going to be done, in a line or two, and what is left out of the data.

    `chosen`: keys of the cells that are run now, where not all are.
    """
    from ktbench.cli.output import data_notes

    teachers = ", ".join(t.name for t in plan.teachers) or "no teacher"
    devices = ", ".join(d.name for d in plan.devices) or "no device"
    _say(
        console,
        f"[bold]{escape(plan.name)}[/]: {_cells(plan)} from {escape(teachers)}, "
        f"{_count(len(plan.exports), 'export')} each, measured on {escape(devices)}; "
        f"results in {escape(str(folder))}",
    )
    if chosen is not None:
        _say(console, f"--only: {len(chosen)} of them now; the others stay as they are")
    if plan.skips:
        _say(
            console, f"{_count(len(plan.skips), 'cell')} skipped: `ktbench plan` gives the reasons"
        )
    for storage in (info.contents.storage for info in data if info.contents is not None):
        if storage is not None and storage.way == "store":
            _say(console, escape(f"data: {storage.text}"))
    for note in data_notes(data):
        _say(console, escape(f"data: {note}"))
    for line in plan.taken:
        _say(console, escape(f"weights: {line}"))


def _cells(plan: Plan) -> str:
    """Say how many cells there are, or may be in a race of seeds."""
    cells = _count(len(plan.cells), "cell")
    if plan.race is None:
        return cells
    return f"at most {cells} ({plan.race.start} to {plan.race.most} seeds of each comparison)"


_STAGES = ("data", "arithmetic", "teachers", "blocks", "training", "export", "measuring", "report")


def summarise(summary: Summary, console: Console, *, failures_only: bool = False) -> None:
    """Print how a run ended: counts, seconds by stage, and every failure with its reason."""
    if not failures_only:
        parts = [f"{_count(summary.done, 'cell')} done"]
        parts += [f"{summary.reused} reused"] if summary.reused else []
        parts += [f"{summary.skipped} skipped"] if summary.skipped else []
        parts += [f"[red]{len(summary.failed)} failed[/]"] if summary.failed else []
        parts += [_count(summary.measured, "measurement")] if summary.measured else []
        seconds = summary.seconds
        spent = ", ".join(f"{s} {seconds[s]:.0f} s" for s in _STAGES if seconds.get(s, 0) >= 0.5)
        spent = f" ({spent})" if spent else ""
        _say(console, f"{', '.join(parts)} in {seconds['total']:.0f} s{spent}")
    for reason, cells in _by_reason(summary).items():
        if len(cells) == 1:
            _say(console, escape(f"  failed: {cells[0]}: {reason}"))
        else:
            _say(console, escape(f"  failed: {len(cells)} cells: {reason}"))
            for cell in cells:
                _say(console, escape(f"    {cell}"))
    for failure in summary.unmeasured:
        _say(console, escape(f"  not measured: {failure.what}: {failure.reason}"))
    if summary.report is not None and not failures_only:
        _say(console, f"report: [bold]{escape(str(summary.report))}[/]")


def _by_reason(summary: Summary) -> dict[str, list[str]]:
    """Return the labels of failed cells by what went wrong: many fail for one teacher."""
    labels: dict[str, list[str]] = {}
    for result in summary.failed:
        for failure in result.failures:
            labels.setdefault(_failure_line(failure), []).append(result.cell.label)
    return labels


def _failure_line(failure: Failure) -> str:
    what = f" {failure.what}" if failure.what else ""
    step = f" (step {failure.step})" if failure.step else ""
    return f"{failure.stage}{what}{step}: {failure.reason}"


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _say(console: Console, text: str) -> None:
    """Print a line of markup, never broken: a path can be copied, a program can read it."""
    console.print(printable(text), highlight=False, soft_wrap=True)
