"""Functions for a child process: a child imports what it runs by name."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ktbench.supervision import mark


def add(first: int, second: int) -> int:
    return first + second


def world() -> tuple[str, str | None]:
    return str(Path.cwd()), os.environ.get("KTBENCH_TEST")


def halfway(report: Callable[[float], None]) -> int:
    report(0.5)
    return os.getpid()


def fail(error: BaseException) -> None:
    raise error


def pid() -> int:
    return os.getpid()


def die(number: int) -> None:
    mark("the cell", "training", "step 3")
    print("last words", flush=True)
    os.kill(os.getpid(), number)
    time.sleep(60)


def leave(code: int) -> None:
    os._exit(code)


def crash() -> None:
    ctypes.string_at(0)


def hang() -> None:
    mark("the cell", "training", "step 3")
    while True:
        pass


def work_slowly(pause_s: float, steps: int) -> str:
    for step in range(steps):
        mark("the cell", "training", f"step {step}")
        time.sleep(pause_s)
    return "done"


def take(size: int) -> int:
    return len(bytearray(size))


def chatter(size: int) -> int:
    line = "x" * 1023 + "\n"
    for _ in range(size // 1024):
        print(line, end="")
    return size


def unreadable() -> Any:
    return lambda: None


def forget_the_parent() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
