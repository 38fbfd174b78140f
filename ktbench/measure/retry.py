"""Waiting for a board that has answered before and is lost: unplugged, frozen, starting anew."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from ktbench.devices._contract import DeviceError

WAITS_S = (2.0, 10.0, 20.0, 40.0)
"""Before each further try: together longer than a board takes to start."""

Answer = TypeVar("Answer")


def patiently(task: Callable[[], Answer]) -> Answer:
    """What a task brings, tried anew as long as the connection to its board is lost.

    The DeviceError of the last try where none succeeds; any other than a loss at once.
    """
    for wait in WAITS_S:
        try:
            return task()
        except DeviceError as error:
            if not error.lost:
                raise
            time.sleep(wait)
    return task()
