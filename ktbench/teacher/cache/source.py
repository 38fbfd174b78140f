"""A teacher source that caches outputs on disk, and reads them where a batch is complete."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from ktbench.data import Stream
from ktbench.records import StorageError, digest_of
from ktbench.students._contract import Features, each
from ktbench.system.files import write_atomically
from ktbench.teacher.cache.disk_quota import DiskQuota, remove
from ktbench.teacher.cache.feature_layout import (
    Bytes,
    Parts,
    RowLayout,
    by_prediction,
    by_sample,
)
from ktbench.teacher.cache.row_file import RowFile, file_bytes
from ktbench.teacher.compressed import Compression
from ktbench.teacher.source import TeacherSource
from ktbench.transfer_methods._contract import Batch, Needs

Note = Callable[[str], None]


@dataclass
class Account:
    """Counts of samples, by how they were answered."""

    read: int = 0
    ran: int = 0
    beyond: int = 0
    """Samples that the teacher ran for because a method reads more than is cached."""

    @property
    def text(self) -> str | None:
        """One line for the user; None without any samples."""
        samples = self.read + self.ran
        if not samples:
            return None
        more = " (a method reads more than teacher.keep names)" if self.beyond else ""
        return f"teacher outputs: {100 * self.read / samples:.0f} % from the cache{more}"


class Cached:
    """Gives what `Compressed(live)` gives, bit for bit, and runs the teacher only where it must.

    There is one file per view in `folder`, whose name must depend on everything that the outputs
    depend on. A batch with a missing sample runs whole on the teacher, since a batch's size decides
    how it is computed, and the missing rows are stored. The first batch always runs, and is
    compared with its stored rows. Outputs that cannot be stored, for any reason, are served live,
    and the user is told once.
    """

    def __init__(
        self,
        live: TeacherSource,
        *,
        compression: Compression,
        stream: Stream,
        needs: Needs,
        folder: Path,
        quota: DiskQuota,
        note: Note = lambda _: None,
    ) -> None:
        """`needs` are the parts that are cached; of sampled outputs the logits alone."""
        self._live, self._compression, self._stream = live, compression, stream
        self._kept = needs | Needs(logits=True)
        self._folder, self._quota, self._note = folder, quota, note
        self._count = stream.dataset.size("train")
        self._batch = min(stream.batch_size, self._count)
        self._metadata = _Metadata.of(folder / "meta.json")
        self._layout: RowLayout | None = None
        self._storing = True
        self._rows: RowFile | None = None
        self._view = -1
        self._noted: set[str] = set()
        self._hit = False
        self._flops = 0
        self.account = Account()

    @property
    def digest(self) -> str:
        """Digest of the teacher's weights."""
        return self._live.digest

    @property
    def stage_names(self) -> tuple[str, ...]:
        """Names of the teacher's stages."""
        return self._live.stage_names

    def flops(self) -> int:
        """Return the FLOPs of the last batch's pass, whether it was made or saved."""
        return self._flops if self._hit else self._live.flops()

    def seconds(self) -> float:
        """Return the seconds of the last pass, or those of passes when outputs were stored."""
        return self._metadata.seconds if self._hit else self._live.seconds()

    def close(self) -> None:
        """Close the open file; the next batch opens it again."""
        if self._rows is not None:
            self._rows.close()
        self._rows, self._view = None, -1

    def outputs(self, batch: Batch, needs: Needs) -> Features:
        """Return features from the cache, or from the teacher; see the class."""
        self._hit = False
        if (needs | self._kept) != self._kept or len(batch.indices) != self._batch:
            self.account.beyond += self._batch if len(batch.indices) == self._batch else 0
            return self._run(batch, needs)[0]
        if self._layout is None:
            return self._first_batch(batch) if self._storing else self._run(batch, needs)[0]
        return self._look_up(batch)

    # ------------------------------------------------------------ the teacher itself

    def _run(self, batch: Batch, needs: Needs) -> tuple[Features, Parts]:
        """Run the teacher; return what students see, and the parts to store."""
        features = self._live.outputs(batch, needs)
        if len(batch.indices) == self._batch:
            self.account.ran += self._batch
        packed = self._compression.pack(features, batch, needs)
        if self._compression.changes:
            features = self._compression.unpack(packed, features.logits.device)
        return features, by_sample(packed, len(batch.indices))

    def _first_batch(self, batch: Batch) -> Features:
        """Run the first batch: find a row's layout, and check that caching is sound."""
        features, packed = self._run(batch, self._kept)
        self._flops = self._live.flops()
        self._metadata.add(self._live.seconds(), first=True)
        layout = RowLayout.of(packed)
        if layout is None:
            self._stop("a sample's outputs do not lie together in memory")
            return features
        rows = layout.rows(packed)
        if not (self._metadata.independent or self._is_independent(batch, layout, rows)):
            self._stop("this teacher's answer for a sample depends on the others of its batch")
            return features
        self._metadata.independent = True
        self._layout = layout
        file = self._file(batch)
        if file is not None and not self._agrees(file, batch, rows):
            self._note_once("other outputs than this teacher's were stored: all are made again")
            self.close()
            remove(self._folder)
            file = self._file(batch)
        self._write_metadata()
        if file is not None:
            self._store(file, batch, rows)
        return features

    def _is_independent(self, batch: Batch, layout: RowLayout, rows: Bytes) -> bool:
        """Return whether the same batch in another order gives each sample the same bits.

        Otherwise stored samples of one batch could not be given in another.
        """
        # `empty_like` keeps the strides, which choose kernels and so bits.
        inputs = each(batch.inputs, lambda part: torch.empty_like(part).copy_(part.flip(0)))
        reversed_ = replace(
            batch, inputs=inputs, labels=batch.labels.flip(0), indices=batch.indices.flip(0)
        )
        features = self._live.outputs(reversed_, self._kept)
        packed = self._compression.pack(features, reversed_, self._kept)
        packed = by_sample(packed, len(batch.indices))
        same_layout = RowLayout.of(packed) == layout
        return same_layout and np.array_equal(layout.rows(packed)[::-1], rows)

    def _agrees(self, file: RowFile, batch: Batch, rows: Bytes) -> bool:
        """Return whether the stored rows of a batch are what the teacher gives now."""
        indices = batch.indices.tolist()
        valid = file.valid(indices)
        return np.array_equal(file.take(indices, 0, file.nbytes)[valid], rows[valid])

    # ------------------------------------------------------------ the disk

    def _look_up(self, batch: Batch) -> Features:
        """Read the batch if the file holds all of it; else run the teacher, and store it."""
        file, indices = self._file(batch), batch.indices.tolist()
        if file is not None and bool(file.valid(indices).all()):
            return self._read(file, indices, batch)
        features, packed = self._run(batch, self._kept)
        if self._metadata.add(self._live.seconds()):
            self._write_metadata()
        if file is not None and self._layout is not None:
            layout = RowLayout.of(packed)
            if layout == self._layout:
                self._store(file, batch, self._layout.rows(packed))
        return features

    def _read(self, file: RowFile, indices: Sequence[int], batch: Batch) -> Features:
        assert self._layout is not None
        packed = {
            slot.name: slot.tensor(file.take(indices, slot.start, slot.stop))
            for slot in self._layout.slots
        }
        self._hit = True
        self.account.read += len(indices)
        return self._compression.unpack(by_prediction(packed), batch.indices.device)

    def _store(self, file: RowFile, batch: Batch, rows: Bytes) -> None:
        """Write the rows that are missing."""
        if not self._storing:
            return
        indices = batch.indices.tolist()
        missing = np.flatnonzero(~file.valid(indices))
        if file.damaged:
            self._note_once("damaged rows are made again")
        try:
            file.put([indices[i] for i in missing], rows[missing])
        except OSError as error:
            self._stop(_reason(error))

    def _file(self, batch: Batch) -> RowFile | None:
        """Return the file of a batch's view; None where there is none and none may be made."""
        view = self._stream.view(batch.epoch)
        if view == self._view:
            return self._rows
        self.close()
        self._view = view
        assert self._layout is not None
        path = self._folder / f"view-{view:06d}.rows"
        new_bytes = 0 if path.is_file() else file_bytes(self._count, self._layout.nbytes)
        if not self._storing and new_bytes:
            return None
        try:
            if not self._quota.admit(self._folder, new_bytes):
                self._stop(f"teacher.cap_gb ({self._quota.cap / 1e9:g}) is reached")
                return None
            key = digest_of([self._folder.name, self._layout.described])
            self._rows = RowFile(
                path, key=key, view=view, count=self._count, nbytes=self._layout.nbytes
            )
        except OSError as error:
            self._stop(_reason(error))
            return None
        if self._rows.replaced:
            self._note_once(f"{path.name} was damaged or not of this teacher: it is made again")
        return self._rows

    def _write_metadata(self) -> None:
        if self._storing:
            try:
                write_atomically(self._folder / "meta.json", self._metadata.text)
            except (StorageError, OSError) as error:
                self._stop(str(error).partition(": ")[2] or str(error))

    def _stop(self, reason: str) -> None:
        """Store nothing more; stored outputs are still read."""
        self._storing = False
        self._note_once(f"no more is kept: {reason}")

    def _note_once(self, text: str) -> None:
        if text not in self._noted:
            self._noted.add(text)
            self._note(f"teacher outputs: {text} ({self._folder})")


@dataclass
class _Metadata:
    """Facts that later runs need not find out again: `meta.json`."""

    independent: bool = False
    """True where a sample's outputs do not depend on the others of its batch."""
    total: float = 0.0
    passes: int = 0
    warming: float = 0.0
    """Seconds of the first pass of a process, which is slower; used while there is no other."""

    @classmethod
    def of(cls, path: Path) -> _Metadata:
        """Read the file; new metadata where there is none that can be read."""
        with suppress(OSError, ValueError, TypeError, KeyError):
            fields = json.loads(path.read_text(encoding="utf-8"))
            return cls(fields["independent"] is True, float(fields["total"]), int(fields["passes"]))
        return cls()

    @property
    def seconds(self) -> float:
        """Seconds of one pass."""
        return self.total / self.passes if self.passes else self.warming

    def add(self, seconds: float, *, first: bool = False) -> bool:
        """Count a pass; return whether this is a good moment to write the file."""
        if first:
            self.warming = seconds
            return False
        self.total += seconds
        self.passes += 1
        return self.passes & (self.passes - 1) == 0

    @property
    def text(self) -> str:
        """Text of the file."""
        fields = {"independent": self.independent, "total": self.total, "passes": self.passes}
        return json.dumps(fields)


def _reason(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return "no space left on the disk"
    return f"cannot write: {error.strerror or error}"
