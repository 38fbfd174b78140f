"""Boards are measured at the same time, one thread each; what uses this machine's processor is not.

A thread waits for its board nearly all the time. It speaks to the run through a queue alone, so the
watcher hears one voice.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ktbench import catalogue
from ktbench.records import DeviceSpec, Failure, KtbenchError, Measurement, StorageError
from ktbench.runner.progress import Watcher

Outcome = Measurement | Failure
Measure = Callable[[DeviceSpec, Watcher], Iterator[Outcome]]


def lines(devices: Sequence[DeviceSpec]) -> tuple[list[DeviceSpec], list[list[DeviceSpec]]]:
    """Devices that are measured alone, and queues of boards: one queue per host."""
    alone: list[DeviceSpec] = []
    hosts: dict[str | None, list[DeviceSpec]] = {}
    for device in devices:
        if catalogue.device(device.profile).transport == "ssh":
            hosts.setdefault(device.host, []).append(device)
        else:
            alone.append(device)
    return alone, list(hosts.values())


def measure_devices(
    devices: Sequence[DeviceSpec], measure: Measure, watcher: Watcher
) -> Iterator[Outcome]:
    """What measuring each device brings: first those on this machine, then all boards at once."""
    alone, boards = lines(devices)
    for device in alone if len(boards) != 1 else [*alone, *boards[0]]:
        yield from _guarded(device, measure, watcher)
    if len(boards) > 1:
        yield from _at_once(boards, measure, watcher)


def _guarded(device: DeviceSpec, measure: Measure, watcher: Watcher) -> Iterator[Outcome]:
    """A device that cannot be measured at all is one failure; a full disk ends the run."""
    try:
        yield from measure(device, watcher)
    except StorageError:
        raise
    except KtbenchError as error:
        yield Failure(stage="measure", what=device.name, reason=str(error))


class _EndedError(Exception):
    """The run is over: whoever still works for it stops."""


@dataclass(frozen=True)
class _Line:
    """A thread's end of the queue, and the watcher that its device sees."""

    name: str
    say: Callable[[object], None]
    over: threading.Event
    total: list[int]

    def begin(self, wave: str, total: int) -> None:
        """See `Watcher`."""
        self.total[:] = [total]

    def advance(self, done: float, what: str = "") -> None:
        """See `Watcher`; ends the work when the run is over."""
        if self.over.is_set():
            raise _EndedError
        self.say((done / max(1, self.total[0]), f"{self.name}: {what}"))

    def end(self) -> None:
        """See `Watcher`: the others go on."""

    def note(self, text: str) -> None:
        """See `Watcher`."""
        self.say(text)


def _at_once(
    boards: Sequence[Sequence[DeviceSpec]], measure: Measure, watcher: Watcher
) -> Iterator[Outcome]:
    heard: queue.SimpleQueue[tuple[int, object]] = queue.SimpleQueue()
    over = threading.Event()

    def work(number: int, board: Sequence[DeviceSpec]) -> None:
        def say(what: object) -> None:
            heard.put((number, what))

        try:
            for device in board:
                for outcome in _guarded(device, measure, _Line(device.name, say, over, [1])):
                    say(outcome)
            say(None)
        except BaseException as error:
            say(error)

    for number, board in enumerate(boards):
        threading.Thread(target=work, args=(number, board), daemon=True).start()
    watcher.begin(f"on {len(boards)} boards", len(boards))
    try:
        yield from _gathered(heard, boards, watcher)
    finally:
        over.set()
        watcher.end()


def _gathered(
    heard: queue.SimpleQueue[tuple[int, object]],
    boards: Sequence[Sequence[DeviceSpec]],
    watcher: Watcher,
) -> Iterator[Outcome]:
    """Outcomes as they come, until every thread has said its last word."""
    working, shares = len(boards), [0.0] * len(boards)
    while working:
        number, what = heard.get()
        if what is None:
            working -= 1
            shares[number] = 1.0
            watcher.advance(sum(shares))
        elif isinstance(what, BaseException):
            raise what
        elif isinstance(what, str):
            watcher.note(what)
        elif isinstance(what, Measurement | Failure):
            yield what
        elif isinstance(what, tuple):
            shares[number], text = what
            watcher.advance(sum(shares), text)
