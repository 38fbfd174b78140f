"""Marks by which a child process shows what it works on, in memory that outlives it.

The child writes, the parent reads. Writing costs about a microsecond, so every training step does.
"""

from __future__ import annotations

import mmap
import os
import struct
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

_HEAD = struct.Struct("<QH")
SIZE = 1024


@dataclass(frozen=True)
class Mark:
    """A sign of life: whose work it is (a cell's key, say), its stage, and its detail."""

    subject: str = ""
    stage: str = ""
    what: str = ""

    @property
    def text(self) -> str:
        """Stage and detail as words, such as `training, step 3`; empty where nothing was marked."""
        return ", ".join(part for part in (self.stage, self.what) if part)


class Board:
    """The shared memory of one child: a count that rises with every mark, and the last mark."""

    def __init__(self, descriptor: int) -> None:
        self._memory = mmap.mmap(descriptor, SIZE)
        self._count = 0

    @staticmethod
    def new() -> int:
        """Return the file descriptor of fresh shared memory, to be handed to the child."""
        if hasattr(os, "memfd_create"):
            descriptor = os.memfd_create("ktbench-marks")
        else:  # pragma: no cover - systems other than Linux
            with tempfile.TemporaryFile() as file:
                descriptor = os.dup(file.fileno())
        os.ftruncate(descriptor, SIZE)
        return descriptor

    def write(self, subject: str, stage: str, what: str) -> None:
        """Write a mark and count it."""
        self._count += 1
        text = f"{subject}\0{stage}\0{what}".encode(errors="replace")[: SIZE - _HEAD.size]
        _HEAD.pack_into(self._memory, 0, self._count, len(text))
        self._memory[_HEAD.size : _HEAD.size + len(text)] = text

    def read(self) -> tuple[int, Mark]:
        """Return the count and the last mark."""
        count, length = _HEAD.unpack_from(self._memory, 0)
        end = _HEAD.size + min(length, SIZE - _HEAD.size)
        parts = self._memory[_HEAD.size : end].decode(errors="replace").split("\0")
        return count, Mark(*parts) if len(parts) == 3 else Mark()

    def clear(self) -> None:
        """Forget the last mark."""
        self.write("", "", "")

    def close(self) -> None:
        """Release the memory."""
        self._memory.close()


_board: Board | None = None
_send: Callable[[tuple[str, Any]], None] | None = None


def attach(board: Board, send: Callable[[tuple[str, Any]], None]) -> None:
    """Make this process a child: its marks go to `board`, its messages to its parent."""
    global _board, _send
    _board, _send = board, send


def mark(subject: str = "", stage: str = "", what: str = "") -> None:
    """Tell the parent what is being worked on; without effect outside a child process."""
    if _board is not None:
        _board.write(subject, stage, what)


@contextmanager
def marked(subject: str = "", stage: str = "", what: str = "") -> Iterator[None]:
    """Mark a block within other work, whose mark is restored afterwards."""
    before = _board.read()[1] if _board is not None else Mark()
    mark(subject, stage, what)
    try:
        yield
    finally:
        mark(before.subject, before.stage, before.what)


def allow(seconds: float) -> None:
    """Set the parent's limit between two marks; without effect outside a child process."""
    if _send is not None:
        _send(("allow", seconds))


def say(text: str) -> None:
    """Show the user a line at once, through the parent where this process is a child."""
    if _send is not None:
        _send(("say", text))
    else:
        import sys

        print(f"ktbench: {text}", file=sys.stderr, flush=True)
