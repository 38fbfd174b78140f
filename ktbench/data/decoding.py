"""Decoding of many images by several processes, each of which writes its part into one file."""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from queue import SimpleQueue

import numpy as np

from ktbench import catalogue
from ktbench.data.encoded import UnreadableError, threads
from ktbench.data.pixels import MixedSizesError, channel_sums
from ktbench.records import DataSpec, KtbenchError
from ktbench.supervision import Child, Died
from ktbench.system.files import storage_error
from ktbench.tasks._contract import Labels, Source

STEP_S = 1800.0
"""Longest time that one part may take."""
Shape = tuple[int, int, int]
"""Channels, height and width."""


@dataclass(frozen=True)
class Part:
    """Some rows of a split, and their place in the file."""

    number: int
    rows: Labels
    identity: str
    """Digest of the rows' identities, as they were when the file was named."""


@dataclass(frozen=True)
class Written:
    """A part that is in the file: its CRC-32, and the sums of its values per channel."""

    number: int
    crc: int
    totals: tuple[int, ...]
    squares: tuple[int, ...]


@dataclass(frozen=True)
class Refused:
    """A part that cannot be written: the names of bad rows, or an example of each shape."""

    number: int
    unreadable: UnreadableError | None = None
    shapes: dict[tuple[int, ...], str] | None = None


@dataclass(frozen=True)
class Work:
    """Everything that a process needs to decode any part of a split."""

    spec: DataSpec
    base: Path
    origin: str
    """Split of the source."""
    shape: Shape
    file: Path
    part_rows: int
    """Rows of every part but the last."""


def identities(source: Source, origin: str, rows: Labels) -> list[str]:
    """Return a text per row that changes when what would be read of it does."""
    assert source.identity is not None
    return list(source.identity(origin, rows))


def digest_of_texts(texts: Sequence[str]) -> str:
    """Return a digest of some texts in their order."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


def write_part(source: Source, work: Work, part: Part) -> Written | Refused:
    """Decode a part and write it to its place in the file, as (n, H, W, C).

    Raises KtbenchError where its files have changed meanwhile, and StorageError.
    """
    try:
        decoded = source.read(work.origin, part.rows)
    except UnreadableError as error:
        return Refused(part.number, unreadable=error)
    except MixedSizesError as error:
        return Refused(part.number, shapes=error.examples)
    assert isinstance(decoded, np.ndarray) and decoded.dtype == np.uint8
    if decoded.shape[1:] != work.shape:
        name = source.row_name(work.origin, int(part.rows[0]))
        return Refused(part.number, shapes={decoded.shape[1:]: name})
    if digest_of_texts(identities(source, work.origin, part.rows)) != part.identity:
        raise KtbenchError(f"data: {source.name} has changed while it was read: run again")
    pixels = np.ascontiguousarray(decoded.transpose(0, 2, 3, 1))
    content = memoryview(pixels.tobytes())
    try:
        _write(work.file, content, part.number * work.part_rows * pixels[0].nbytes)
    except OSError as error:
        raise storage_error(work.file, error) from error
    return Written(part.number, zlib.crc32(content), *channel_sums(decoded))


def _write(path: Path, content: memoryview, offset: int) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        while content:
            done = os.pwrite(handle, content, offset)
            content, offset = content[done:], offset + done
    finally:
        os.close(handle)


# ---------------------------------------------------------------- processes


def write_parts(
    source: Source, work: Work, parts: Sequence[Part], workers: int
) -> Iterator[Written | Refused]:
    """Write parts with so many processes, in any order; one worker is this process itself.

    Raises as `write_part`, and KtbenchError where a process dies.
    """
    workers = min(workers, len(parts))
    if workers <= 1:
        before = threads.set(1)
        try:
            yield from (write_part(source, work, part) for part in parts)
        finally:
            threads.reset(before)
        return
    with ExitStack() as opened:
        pool = opened.enter_context(ThreadPoolExecutor(workers))
        children = [opened.enter_context(closing(Child.started())) for _ in range(workers)]
        idle: SimpleQueue[Child] = SimpleQueue()
        for child in children:
            idle.put(child)
        try:
            for done in as_completed([pool.submit(_in_child, idle, work, part) for part in parts]):
                yield done.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _in_child(idle: SimpleQueue[Child], work: Work, part: Part) -> Written | Refused:
    child = idle.get()
    try:
        outcome: Written | Refused = child.run(_part_here, work, part, step_s=STEP_S)
    except Died as died:
        raise KtbenchError(f"data: a process that decodes images has died: {died}") from None
    finally:
        idle.put(child)
    return outcome


def _part_here(work: Work, part: Part) -> Written | Refused:
    """Write a part in a process that decodes alone on its core."""
    threads.set(1)
    return write_part(_opened(work.spec, work.base), work, part)


@lru_cache(maxsize=1)
def _opened(spec: DataSpec, base: Path) -> Source:
    return catalogue.task(spec.task).open(spec, base)
