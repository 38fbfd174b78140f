"""Encoded samples: bytes of files in class folders, or in the cells of tables."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass
from typing import IO, TypeVar

from ktbench.data.sources import some
from ktbench.records import KtbenchError
from ktbench.tasks._contract import Labels

Decoded = TypeVar("Decoded")
_THREADS = min(8, os.cpu_count() or 1)
threads: ContextVar[int] = ContextVar("threads", default=_THREADS)
"""Threads that decode; one in a process that is one of several."""
_NAMED = 4
"""Most names beside the first one of samples that cannot be read."""


class UnreadableError(KtbenchError):
    """Samples that cannot be read: the reason of the first, and the names of the others."""

    def __init__(self, first: str, others: tuple[str, ...] = ()) -> None:
        self.first, self.others = first, others
        more = f"; {len(others):,} more cannot be read: {some([*others], _NAMED)}" if others else ""
        super().__init__(f"{first}{more}")

    @staticmethod
    def joined(errors: Sequence[UnreadableError]) -> UnreadableError:
        """Return one error for several, in their order."""
        first, *rest = errors
        # The reason of an error's first sample begins with its name.
        names = [error.first.removeprefix("data: ").partition(": ")[0] for error in rest]
        others = [(name, *error.others) for name, error in zip(names, rest, strict=True)]
        return UnreadableError(first.first, sum(others, first.others))

    def __reduce__(self) -> tuple[type[UnreadableError], tuple[str, tuple[str, ...]]]:
        """Pickle by its parts."""
        return UnreadableError, (self.first, self.others)


@dataclass(frozen=True)
class Encoded:
    """Labels of encoded samples by split, and a reader of their bytes by split and rows."""

    name: str
    classes: tuple[str, ...]
    labels: dict[str, Labels]
    read: Callable[[str, Labels], Callable[[int], bytes]]
    """Return a function from one of these rows to its bytes."""
    row_name: Callable[[str, int], str]
    """Name of a row for people: its file, or its split and number."""
    identity: Callable[[str, Labels], Iterator[str]]
    """Yield a text per row that changes when its bytes do, without reading these."""
    opened: Callable[[str, int], IO[bytes]] | None = None
    """Open the file of a row, where each has one: its header can be read alone."""
    notes: tuple[str, ...] = ()
    about: str = ""

    def decoded(
        self, split: str, rows: Labels, decode: Callable[[bytes, str], Decoded]
    ) -> list[Decoded]:
        """Decode rows, each from its bytes and its name; see `decode_all`."""
        bytes_of = self.read(split, rows)

        def one(row: int) -> Decoded:
            return decode(bytes_of(row), self.row_name(split, row))

        return decode_all(one, rows, lambda row: self.row_name(split, row))


def decode_all(
    one: Callable[[int], Decoded], rows: Labels, name_of: Callable[[int], str] = str
) -> list[Decoded]:
    """Decode every row, on several threads, as decoders release Python's lock.

    Raises UnreadableError with the first row that cannot be read and the names of the others.
    """

    def outcome(row: int) -> Decoded | KtbenchError:
        try:
            return one(row)
        except KtbenchError as error:
            return error

    numbers = [int(row) for row in rows]
    # Decoders warn of what is refused here, or read anyway.
    with warnings.catch_warnings(), ThreadPoolExecutor(threads.get()) as pool:
        warnings.simplefilter("ignore")
        outcomes = list(pool.map(outcome, numbers))
    failed = [
        (row, answer)
        for row, answer in zip(numbers, outcomes, strict=True)
        if isinstance(answer, KtbenchError)
    ]
    if failed:
        others = tuple(name_of(row) for row, _ in failed[1:])
        raise UnreadableError(str(failed[0][1]), others) from failed[0][1]
    return [answer for answer in outcomes if not isinstance(answer, KtbenchError)]
