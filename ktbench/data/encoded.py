"""Encoded samples: bytes of files in class folders, or in the cells of tables."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from ktbench.records import KtbenchError
from ktbench.tasks._contract import Labels

Decoded = TypeVar("Decoded")


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
    notes: tuple[str, ...] = ()
    about: str = ""

    def decoded(
        self, split: str, rows: Labels, decode: Callable[[bytes, str], Decoded]
    ) -> list[Decoded]:
        """Decode rows, each from its bytes and its name; see `decode_all`."""
        bytes_of = self.read(split, rows)

        def one(row: int) -> Decoded:
            return decode(bytes_of(row), self.row_name(split, row))

        return decode_all(one, rows)


def decode_all(one: Callable[[int], Decoded], rows: Labels) -> list[Decoded]:
    """Decode every row, on several threads, as decoders release Python's lock.

    Raises KtbenchError with the first row that cannot be read and how many more there are.
    """

    def outcome(row: int) -> Decoded | KtbenchError:
        try:
            return one(row)
        except KtbenchError as error:
            return error

    numbers = [int(row) for row in rows]
    # Decoders warn of what is refused here, or read anyway.
    with warnings.catch_warnings(), ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        warnings.simplefilter("ignore")
        outcomes = list(pool.map(outcome, numbers))
    errors = [answer for answer in outcomes if isinstance(answer, KtbenchError)]
    if errors:
        more = f"; {len(errors) - 1:,} more cannot be read" if len(errors) > 1 else ""
        raise KtbenchError(f"{errors[0]}{more}") from errors[0]
    return [answer for answer in outcomes if not isinstance(answer, KtbenchError)]
