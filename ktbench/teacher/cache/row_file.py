"""Fixed-size, CRC-checked records, one per sample: the cached outputs of one view.

A file is a header (magic, key, view, sizes) and one row of equal size per sample: its bytes, and
the CRC-32 of (key, view, sample, bytes). A row that was never written, or partly, or for another
sample, view or cache, is not valid. A row's content is a function of its place: writers need no
lock.
"""

from __future__ import annotations

import errno
import mmap
import os
import struct
import tempfile
import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ktbench.system.files import PREFIX

MAGIC = b"ktbrows1"
_HEADER = struct.Struct("<8s16sQQQ12x")  # magic, key, view, rows, bytes of a row, CRC follows
_CRC = struct.Struct("<I")
HEADER_BYTES = _HEADER.size + _CRC.size

Rows = NDArray[np.uint8]


class RowFile:
    """Rows by sample, read through a memory map and written by position.

    Writing through the map would end the process where the disk is full; a file is never
    truncated, as that would end the processes that have it mapped.
    """

    def __init__(self, path: Path, *, key: str, view: int, count: int, nbytes: int) -> None:
        """Open the file, or make it where there is none; `nbytes` is a row's size without its CRC.

        A file with another header or size is removed and made again, and `replaced` set. Raises
        OSError.
        """
        self.count, self.nbytes = count, nbytes
        self.replaced = self.damaged = False
        self._stride = nbytes + _CRC.size
        fields = _HEADER.pack(MAGIC, key.encode().ljust(16)[:16], view, count, self._stride)
        self._header = fields + _CRC.pack(zlib.crc32(fields))
        self._salt = zlib.crc32(fields)
        self._file = self._opened(path)
        try:
            self._map = mmap.mmap(self._file, self.size, access=mmap.ACCESS_READ)
        except BaseException:
            os.close(self._file)
            raise
        everything = np.frombuffer(self._map, dtype=np.uint8, offset=HEADER_BYTES)
        self._rows = everything.reshape(count, self._stride)

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return file_bytes(self.count, self.nbytes)

    def valid(self, indices: Sequence[int]) -> NDArray[np.bool_]:
        """Check rows; True for those that hold what was written for them.

        A row that was written and is not whole sets `damaged`.
        """
        view, stride, valid = memoryview(self._map), self._stride, []
        for index in indices:
            start = HEADER_BYTES + index * stride
            stored = _CRC.unpack_from(view, start + self.nbytes)[0]
            right = stored != 0 and stored == self._crc(index, view[start : start + self.nbytes])
            self.damaged |= stored != 0 and not right
            valid.append(right)
        view.release()
        return np.array(valid, dtype=bool)

    def take(self, indices: Sequence[int], start: int, stop: int) -> Rows:
        """Copy a range of bytes of some rows: (B, stop - start)."""
        return np.ascontiguousarray(self._rows[:, start:stop][np.asarray(indices)])

    def put(self, indices: Sequence[int], rows: Rows) -> None:
        """Write rows (B, nbytes); raises OSError."""
        for index, row in zip(indices, rows, strict=True):
            content = row.tobytes()
            content += _CRC.pack(self._crc(index, content))
            _write_all(self._file, content, HEADER_BYTES + index * self._stride)

    def close(self) -> None:
        """Close the file."""
        del self._rows
        self._map.close()
        os.close(self._file)

    def _crc(self, index: int, content: bytes | memoryview) -> int:
        """Return a row's CRC, never 0, which stands for a row that was never written."""
        return zlib.crc32(content, zlib.crc32(index.to_bytes(8, "little"), self._salt)) or 1

    def _opened(self, path: Path) -> int:
        for _ in range(8):  # others may remove what was just made
            try:
                handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            except FileNotFoundError:
                with suppress(FileNotFoundError):
                    self._make(path)
                continue
            if self._is_ours(handle):
                return handle
            os.close(handle)
            path.unlink(missing_ok=True)
            self.replaced = True
        raise OSError(errno.EIO, "is replaced by others again and again", str(path))

    def _is_ours(self, handle: int) -> bool:
        right_size = os.fstat(handle).st_size == self.size
        return right_size and os.pread(handle, HEADER_BYTES, 0) == self._header

    def _make(self, path: Path) -> None:
        """Make a whole file of empty rows, unless another process was quicker."""
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=PREFIX, dir=path.parent)
        try:
            _write_all(handle, self._header, 0)
            os.ftruncate(handle, self.size)
            os.fchmod(handle, 0o644)
            try:
                os.link(temporary, path)
            except FileExistsError:
                return
            except OSError:  # a file system without links
                os.replace(temporary, path)  # noqa: PTH105
        finally:
            os.close(handle)
            Path(temporary).unlink(missing_ok=True)


def file_bytes(count: int, nbytes: int) -> int:
    """Return the size of a file with `count` rows of `nbytes` bytes."""
    return HEADER_BYTES + count * (nbytes + _CRC.size)


def _write_all(handle: int, content: bytes, offset: int) -> None:
    done = 0
    while done < len(content):
        done += os.pwrite(handle, content[done:], offset + done)
