"""Retries for a board that answered before and is lost: unplugged, frozen or restarting."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from ktbench.devices._contract import DeviceError

WAITS_S = (2.0, 10.0, 20.0, 40.0)
"""Waits before each further try, together longer than a board takes to start."""

Answer = TypeVar("Answer")


def patiently(task: Callable[[], Answer]) -> Answer:
    """Return a task's result; retry while the connection to its board is lost.

    Raises the DeviceError of the last try; one that is no loss at once.
    """
    for wait in WAITS_S:
        try:
            return task()
        except DeviceError as error:
            if not error.lost:
                raise
            time.sleep(wait)
    return task()
