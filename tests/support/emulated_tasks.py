"""Record the tasks that an emulated board is given, and act at the right moment."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

import pytest

from ktbench.devices._contract import Blob, DeviceError
from ktbench.devices.transport.ssh import SshTransport


def nothing() -> None:
    """Do nothing."""


@contextmanager
def watched(
    on_loss: Callable[[], None] = nothing, on_last_bench: Callable[[], None] = nothing
) -> Iterator[list[str]]:
    """Record the tasks that boards are given over SSH, each task of a series separately.

    `on_loss` is called when the first one is lost, `on_last_bench` in the last of a series.
    """
    tasks: list[str] = []
    run, series = SshTransport.run, SshTransport.series

    def look(error: DeviceError) -> None:
        if error.lost and "lost" not in tasks:
            tasks.append("lost")
            on_loss()

    def one(
        way: SshTransport, task: dict[str, Any], blobs: Sequence[Blob], limit_s: float
    ) -> dict[str, Any]:
        tasks.append(task["task"])
        try:
            return run(way, task, blobs, limit_s)
        except DeviceError as error:
            look(error)
            raise

    def several(
        way: SshTransport, task: dict[str, Any], blobs: Sequence[Blob], limits: Sequence[float]
    ) -> Iterator[dict[str, Any] | DeviceError]:
        tasks.extend(each["task"] for each in task["tasks"])
        try:
            with closing(series(way, task, blobs, limits)) as answers:
                for number, answer in enumerate(answers):
                    if number == len(limits) - 2:
                        threading.Timer(1.0, on_last_bench).start()
                    yield answer
        except DeviceError as error:
            look(error)
            raise

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SshTransport, "run", one)
        patch.setattr(SshTransport, "series", several)
        yield tasks
