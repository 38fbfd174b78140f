"""Decoded images on disk: each split's once, for every run of this user, mapped into memory.

A split's folder is named by a digest of what its images are decoded from and how. Its file gets its
name when all parts are in it and on the disk; until then a journal beside it tells which parts
are, each with its CRC, so that a later run decodes only the others.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from torch import Tensor

from ktbench.data.decoding import (
    Part,
    Refused,
    Shape,
    Work,
    Written,
    digest_of_texts,
    identities,
    write_parts,
)
from ktbench.data.encoded import UnreadableError
from ktbench.data.mapped import map_images
from ktbench.data.pixels import refuse_mixed
from ktbench.data.sources import counted
from ktbench.records import DataSpec, Record, StorageError, canonical_json
from ktbench.supervision import marked, say
from ktbench.system.files import PREFIX, cache_folder, storage_error, write_atomically
from ktbench.system.locks import lock
from ktbench.system.machine import usable_cores
from ktbench.tasks._contract import Labels, Source

FORMAT = 1
"""Version of the folder's files and of the rules of decoding."""
PART_BYTES = 16 << 20
"""Size of a part, which is decoded in one go: what a killed process loses at most."""
progress: ContextVar[Callable[[float], None] | None] = ContextVar("progress", default=None)
"""Receives the share of a split's images that are decoded; without one, a line says that it is
begun."""


@contextmanager
def reporting(report: Callable[[float], None]) -> Iterator[None]:
    """Report the share of images that are decoded, inside the block."""
    token = progress.set(report)
    try:
        yield
    finally:
        progress.reset(token)


class About(Record):
    """Description of a finished file, which is written last."""

    count: int
    shape: tuple[int, int, int]
    part_rows: int
    crcs: tuple[int, ...]
    """CRC-32 of each part."""
    totals: tuple[int, ...]
    squares: tuple[int, ...]
    """Sums over each channel's values, and over their squares."""
    modified_ns: int
    """Date of the file: another one has to be checked."""


@dataclass(frozen=True)
class Split:
    """Some rows of a source's split, as they are decoded: one folder of the store."""

    spec: DataSpec
    base: Path
    source: Source
    origin: str
    """Split of the source."""
    rows: Labels
    shape: Shape
    example: str
    """Name of an image of this shape."""

    @cached_property
    def folder(self) -> Path:
        """The folder, which need not exist; equal for equal files that are read alike."""
        return cache_folder() / "images" / self._name

    @property
    def _name(self) -> str:
        import PIL

        read_alike = self.spec.model_dump(mode="json", include={"image_size", "fit"})
        head = canonical_json([FORMAT, PIL.__version__, read_alike, self.spec.task.canonical])
        return digest_of_texts([head, *self.identities])[:16]

    @cached_property
    def identities(self) -> list[str]:
        """Texts of the rows that change when their files do, as they were when first asked for."""
        return identities(self.source, self.origin, self.rows)

    @property
    def image_bytes(self) -> int:
        """Size of an image."""
        channels, height, width = self.shape
        return channels * height * width

    @property
    def nbytes(self) -> int:
        """Size of the file."""
        return self.image_bytes * len(self.rows)

    @property
    def missing_bytes(self) -> int:
        """Bytes that the disk must still take."""
        if _finished(self.folder) is not None:
            return 0
        with suppress(OSError):
            status = _unfinished(self.folder).stat()
            return max(0, self.nbytes - 512 * status.st_blocks)
        return self.nbytes

    @property
    def part_rows(self) -> int:
        """Images of a part."""
        return max(1, PART_BYTES // self.image_bytes)


def pixels_of(folder: Path) -> Path:
    """Return the file of a folder's images (N, H, W, C), uint8."""
    return folder / "pixels"


def _unfinished(folder: Path) -> Path:
    return folder / "pixels.unfinished"


def _journal(folder: Path) -> Path:
    return folder / "parts"


def _record(folder: Path) -> Path:
    return folder / "about.json"


# ---------------------------------------------------------------- opening


def opened(split: Split) -> Tensor:
    """Return a split's images (N, C, H, W), mapped.

    Decodes what is not there yet; another process that decodes the same images is waited for.
    Raises KtbenchError for images that cannot be read, and StorageError where the disk is full.
    """
    about = _finished(split.folder)
    if about is None:
        with _held(split):
            about = _finished(split.folder) or _checked(split) or _made(split)
    with suppress(OSError):
        os.utime(split.folder)  # people see which folders are still used
    sums = about.totals, about.squares
    return map_images(pixels_of(split.folder), about.count, about.shape, sums)


def _finished(folder: Path) -> About | None:
    """Return the description of a file that is whole and that nobody has written to since."""
    about = _described(folder)
    with suppress(OSError):
        if about is not None and pixels_of(folder).stat().st_mtime_ns == about.modified_ns:
            return about
    return None


def _described(folder: Path) -> About | None:
    """Return the description of a file of the right size."""
    with suppress(OSError, ValueError):
        about = About.model_validate_json(_record(folder).read_text())
        if pixels_of(folder).stat().st_size == about.count * np.prod(about.shape, dtype=int):
            return about
    return None


def _checked(split: Split) -> About | None:
    """Return the description of a file of another date, if every part of it is what was written."""
    about = _described(split.folder)
    if about is None or about.count != len(split.rows) or about.shape != split.shape:
        return None
    path = pixels_of(split.folder)
    size = about.part_rows * split.image_bytes
    if any(_crc(path, number * size, size) != crc for number, crc in enumerate(about.crcs)):
        return None
    return _described_as(split.folder, about, path)


def _crc(path: Path, start: int, size: int) -> int:
    with path.open("rb") as file:
        file.seek(start)
        return zlib.crc32(file.read(size))


def _described_as(folder: Path, about: About, path: Path) -> About:
    """Write the description of a file with its date."""
    about = about.model_copy(update={"modified_ns": path.stat().st_mtime_ns})
    write_atomically(_record(folder), about.model_dump_json(indent=1))
    return about


@contextmanager
def _held(split: Split) -> Iterator[None]:
    """Hold a split's folder; another process that holds it is waited for."""
    folder, told = split.folder, False

    def waiting() -> None:
        nonlocal told
        with marked(stage="reading the data", what="waiting for another process's images"):
            if not told:
                say(f"data: another process decodes the same images into {folder}: waiting for it")
            told = True

    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / "held", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise StorageError(
            f"{folder}: cannot write: {error.strerror}: set KTBENCH_CACHE to another folder"
        ) from error
    try:
        lock(handle, waiting)
        yield
    finally:
        os.close(handle)  # which frees the lock


# ---------------------------------------------------------------- making


def _made(split: Split) -> About:
    """Decode what the journal does not hold, and give the file its name."""
    folder, spec = split.folder, split.spec
    workers = spec.decoders or usable_cores()
    work = Work(spec, split.base, split.origin, split.shape, _unfinished(folder), split.part_rows)
    try:
        for stale in (_record(folder), *folder.glob("digest-*"), *folder.glob(f"{PREFIX}*")):
            stale.unlink(missing_ok=True)
        pixels_of(folder).unlink(missing_ok=True)
        written = _resumed(split)
        missing = [part for part in _parts(split) if part.number not in written]
        if progress.get() is None:
            say(f"data: decoding {counted(len(split.rows), 'image')} into {folder}")
        with _journal(folder).open("a") as journal:
            refused = list[Refused]()
            for outcome in write_parts(split.source, work, missing, workers):
                if isinstance(outcome, Refused):
                    refused.append(outcome)
                    continue
                written[outcome.number] = outcome
                journal.write(_line(outcome))
                journal.flush()
                _tell(len(written) * split.part_rows, len(split.rows))
        if refused:
            _refuse(split, refused)
        return _named(split, [written[number] for number in sorted(written)])
    except OSError as error:
        raise storage_error(folder, error) from error


def _parts(split: Split) -> Iterator[Part]:
    for number, start in enumerate(range(0, len(split.rows), split.part_rows)):
        chosen = slice(start, start + split.part_rows)
        yield Part(number, split.rows[chosen], digest_of_texts(split.identities[chosen]))


def _line(written: Written) -> str:
    return json.dumps([written.number, written.crc, written.totals, written.squares]) + "\n"


def _resumed(split: Split) -> dict[int, Written]:
    """Return the parts that an earlier process left whole, by number; makes the file if need be."""
    path, journal, written = _unfinished(split.folder), _journal(split.folder), {}
    if not path.exists() or path.stat().st_size != split.nbytes:
        journal.unlink(missing_ok=True)
        with path.open("wb") as file:
            file.truncate(split.nbytes)  # whose space is taken as parts are written
        return {}
    size = split.part_rows * split.image_bytes
    lines = journal.read_text().splitlines() if journal.exists() else []
    for line in lines:
        with suppress(ValueError, TypeError):  # the last line of a killed process
            number, crc, totals, squares = json.loads(line)
            if crc == _crc(path, number * size, size):
                written[number] = Written(number, crc, tuple(totals), tuple(squares))
    write_atomically(journal, "".join(map(_line, written.values())))
    return written


def _tell(done: int, count: int) -> None:
    with marked(stage="decoding images", what=f"{min(done, count):,} of {count:,}"):
        if (report := progress.get()) is not None:
            report(min(1.0, done / count))


def _refuse(split: Split, refused: list[Refused]) -> None:
    """Raise KtbenchError that names every image that cannot be read, or those that differ."""
    refused.sort(key=lambda each: each.number)
    errors = [each.unreadable for each in refused if each.unreadable is not None]
    if errors:
        raise UnreadableError.joined(errors)
    shapes: dict[tuple[int, ...], str] = {split.shape: split.example}
    for each in refused:
        shapes = (each.shapes or {}) | shapes
    refuse_mixed(shapes)


def _named(split: Split, written: list[Written]) -> About:
    """Put the file on the disk for good, and give it its description and then its name."""
    folder, path = split.folder, _unfinished(split.folder)
    with path.open("rb+") as file:
        os.fsync(file.fileno())
    about = _described_as(
        folder,
        About(
            count=len(split.rows),
            shape=split.shape,
            part_rows=split.part_rows,
            crcs=tuple(each.crc for each in written),
            totals=tuple(map(sum, zip(*(each.totals for each in written), strict=True))),
            squares=tuple(map(sum, zip(*(each.squares for each in written), strict=True))),
            modified_ns=0,
        ),
        path,
    )
    path.replace(pixels_of(folder))
    _journal(folder).unlink(missing_ok=True)
    return about
