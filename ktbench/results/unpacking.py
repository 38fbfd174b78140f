"""Reads a packed results folder (`FILE.ktb`) as if it were the folder.

A pack is a zip archive with the paths of a results folder and nothing else. It may come from
anybody, so names, sizes and kinds of entries are checked before the first byte is written, into a
temporary folder that is removed with the object that read it.
"""

from __future__ import annotations

import shutil
import stat
import struct
import tempfile
import weakref
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ktbench.records import KtbenchError, printable
from ktbench.results.folder_contents import NETWORKS, RECORDS
from ktbench.results.storage import MOST_BYTES, MOST_OF_LOCK
from ktbench.system.files import MOST_RECORD, MOST_WEIGHTS, check_regular

SUFFIX = ".ktb"
MOST_FILES = 500_000
_MOST_OF_RECORDS = 8 << 30
"""Bytes of all records, curves and samples together."""
_ORDINARY = 256 << 20
"""Bytes to which any archive may unpack; above them `_MOST_RATIO` times its size is the limit."""
_MOST_RATIO = 100

_UNREADABLE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    NotImplementedError,  # a compression that this Python does not have
    RuntimeError,  # encrypted
    ValueError,
    KeyError,
)
"""Whatever the zip reader raises on damaged archives."""


def is_packed(path: Path) -> bool:
    """True where a path is to be read as a packed folder: any regular file."""
    return path.is_file()


class Unpacked:
    """The files of a packed folder, in a temporary folder that goes when this object goes."""

    def __init__(self, file: Path, *, networks: bool = False) -> None:
        """Weights and exported students are left in the archive unless `networks` asks for them.

        Raises KtbenchError where the archive is damaged, or holds anything that no pack holds.
        """
        self.file = file
        self.path = Path(tempfile.mkdtemp(prefix="ktbench-"))
        self._removal = weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)
        try:
            _unpack(file, self.path, networks=networks)
        except BaseException:
            self._removal()
            raise

    @contextmanager
    def named(self) -> Iterator[Path]:
        """The temporary folder; an error raised meanwhile names the pack in its place."""
        try:
            yield self.path
        except KtbenchError as error:
            message = str(error).replace(str(self.path), str(self.file))
            raise KtbenchError(message) from error


def _unpack(file: Path, place: Path, *, networks: bool) -> None:
    size = check_regular(file, MOST_WEIGHTS)
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            _check(file, entries, size)
            chosen = [e for e in entries if networks or RECORDS.fullmatch(e.filename)]
            _check_room(file, chosen, size, place)
            for entry in chosen:
                _extract(archive, entry, place / entry.filename)
    except _UNREADABLE as error:
        reason = printable(str(error)).partition("\n")[0][:200] or type(error).__name__
        raise KtbenchError(
            f"{file}: no packed results folder, or a damaged one ({reason}): fetch it again, or "
            "name a results folder"
        ) from error
    except OSError as error:
        raise KtbenchError(f"{file}: cannot unpack it: {error.strerror}") from error


def _extract(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with archive.open(entry) as source, target.open("xb") as sink:
        shutil.copyfileobj(source, sink, 1 << 20)


def _check(file: Path, entries: list[zipfile.ZipInfo], size: int) -> None:
    """Refuse an archive with anything in it that no pack holds."""
    if len(entries) > MOST_FILES:
        raise _refusal(file, f"holds {len(entries):,} files, more than {MOST_FILES:,}")
    names = set()
    for entry in entries:
        reason = _misfit(entry)
        if reason is None and entry.filename in names:
            reason = "is in it twice"
        if reason is not None:
            raise _refusal(file, f"{printable(entry.orig_filename)[:200]!r} {reason}")
        names.add(entry.filename)
    if "lock.json" not in names:
        raise _refusal(file, "it has no lock.json")


def _misfit(entry: zipfile.ZipInfo) -> str | None:
    """Reason why an entry cannot be a file of a pack, or None."""
    name, kind = entry.filename, stat.S_IFMT(entry.external_attr >> 16)
    is_record = RECORDS.fullmatch(name) is not None
    if name != entry.orig_filename or not (is_record or NETWORKS.fullmatch(name)):
        return "is no path of a results folder"
    if kind not in (0, stat.S_IFREG):
        return "is a link or no regular file"
    if entry.flag_bits & 1:
        return "is encrypted"
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "is compressed in a way that no pack is"
    if entry.file_size > most_bytes(name):
        return f"has {entry.file_size:,} bytes, more than such a file may hold"
    return None


def most_bytes(name: str) -> int:
    """The size that a file of a results folder may have, by its path in the folder."""
    if NETWORKS.fullmatch(name):
        return MOST_WEIGHTS if name.endswith(".pt") else MOST_RECORD
    if name == "lock.json":
        return MOST_OF_LOCK
    return MOST_RECORD if name.endswith(".samples.parquet") else MOST_BYTES


def _check_room(file: Path, entries: list[zipfile.ZipInfo], size: int, place: Path) -> None:
    """Refuse a zip bomb, and what the disk cannot hold."""
    total = sum(entry.file_size for entry in entries)
    most = _MOST_OF_RECORDS + sum(e.file_size for e in entries if NETWORKS.fullmatch(e.filename))
    if total > min(most, max(_ORDINARY, _MOST_RATIO * size)):
        raise _refusal(file, f"its {size:,} bytes would unpack to {total:,}")
    if total > shutil.disk_usage(place).free:
        raise KtbenchError(
            f"{file}: unpacks to {total:,} bytes, more than is free in {place.parent}: free some, "
            "or set TMPDIR"
        )


def _refusal(file: Path, reason: str) -> KtbenchError:
    return KtbenchError(
        f"{file}: no packed results folder: {reason}: name a file of `ktbench pack`"
    )
