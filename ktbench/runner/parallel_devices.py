"""Measures SSH boards in parallel, local devices one at a time.

Each board has a thread, which waits for it nearly all the time. Threads talk to the run through one
queue, so that only the run's own thread calls the watcher.
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
    """Return the devices that are measured alone, and queues of boards: one queue per host."""
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
    """Give the outcomes of each device: first those on this machine, then all boards at once."""
    alone, boards = lines(devices)
    for device in alone if len(boards) != 1 else [*alone, *boards[0]]:
        yield from _guarded(device, measure, watcher)
    if len(boards) > 1:
        yield from _at_once(boards, measure, watcher)


def _guarded(device: DeviceSpec, measure: Measure, watcher: Watcher) -> Iterator[Outcome]:
    """Measure a device; being unable to is one failure, while a full disk ends the run."""
    try:
        yield from measure(device, watcher)
    except StorageError:
        raise
    except KtbenchError as error:
        yield Failure(stage="measure", what=device.name, reason=str(error))


class _EndedError(Exception):
    """The run is over, and its threads stop."""


@dataclass(frozen=True)
class _QueueWatcher:
    """A thread's watcher, which puts what it hears on the run's queue."""

    name: str
    put: Callable[[object], None]
    over: threading.Event
    total: list[int]

    def begin(self, wave: str, total: int) -> None:
        """See `Watcher`."""
        self.total[:] = [total]

    def advance(self, done: float, what: str = "") -> None:
        """See `Watcher`; ends the work when the run is over."""
        if self.over.is_set():
            raise _EndedError
        self.put((done / max(1, self.total[0]), f"{self.name}: {what}"))

    def end(self) -> None:
        """See `Watcher`; the wave goes on for the other boards."""

    def note(self, text: str) -> None:
        """See `Watcher`."""
        self.put(text)


def _at_once(
    boards: Sequence[Sequence[DeviceSpec]], measure: Measure, watcher: Watcher
) -> Iterator[Outcome]:
    messages: queue.SimpleQueue[tuple[int, object]] = queue.SimpleQueue()
    over = threading.Event()

    def work(number: int, board: Sequence[DeviceSpec]) -> None:
        def put(message: object) -> None:
            messages.put((number, message))

        try:
            for device in board:
                own_watcher = _QueueWatcher(device.name, put, over, [1])
                for outcome in _guarded(device, measure, own_watcher):
                    put(outcome)
            put(None)
        except BaseException as error:
            put(error)

    for number, board in enumerate(boards):
        threading.Thread(target=work, args=(number, board), daemon=True).start()
    watcher.begin(f"on {len(boards)} boards", len(boards))
    try:
        yield from _gathered(messages, boards, watcher)
    finally:
        over.set()
        watcher.end()


def _gathered(
    messages: queue.SimpleQueue[tuple[int, object]],
    boards: Sequence[Sequence[DeviceSpec]],
    watcher: Watcher,
) -> Iterator[Outcome]:
    """Give outcomes as they come, until every thread has ended."""
    working, shares = len(boards), [0.0] * len(boards)
    while working:
        number, message = messages.get()
        if message is None:
            working -= 1
            shares[number] = 1.0
            watcher.advance(sum(shares))
        elif isinstance(message, BaseException):
            raise message
        elif isinstance(message, str):
            watcher.note(message)
        elif isinstance(message, Measurement | Failure):
            yield message
        elif isinstance(message, tuple):
            shares[number], text = message
            watcher.advance(sum(shares), text)
