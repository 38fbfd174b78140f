"""A teacher whose outputs are kept on disk, and read where a batch's samples were asked before."""

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
from ktbench.students._contract import Features
from ktbench.system.files import write_atomically
from ktbench.teacher.cache.disk_quota import Room, remove
from ktbench.teacher.cache.feature_layout import Bytes, Layout, Parts
from ktbench.teacher.cache.row_file import RowFile, file_bytes
from ktbench.teacher.compressed import Reduction
from ktbench.teacher.source import TeacherSource
from ktbench.transfer_methods._contract import Batch, Needs

Note = Callable[[str], None]


@dataclass
class Account:
    """How samples were answered."""

    read: int = 0
    ran: int = 0
    beyond: int = 0
    """Of those that the teacher ran for: a method read more than is kept."""

    @property
    def text(self) -> str | None:
        """One line for the user; None when nothing was asked."""
        asked = self.read + self.ran
        if not asked:
            return None
        more = " (a method reads more than teacher.keep names)" if self.beyond else ""
        return f"teacher outputs: {100 * self.read / asked:.0f} % from the cache{more}"


class Cached:
    """Gives what `Reduced(live)` gives, bit for bit, and runs the teacher only where it must.

    One file per view in `folder`, whose name must tell everything that the outputs depend on.
    A batch with a sample that is not there runs whole on the teacher, since a batch's size decides
    how it is computed, and what was missing is stored. The first batch always runs, and is compared
    with what is stored of it. What cannot be stored, for any reason, is told once, and served live.
    """

    def __init__(
        self,
        live: TeacherSource,
        *,
        reduction: Reduction,
        stream: Stream,
        needs: Needs,
        folder: Path,
        room: Room,
        note: Note = lambda _: None,
    ) -> None:
        """`needs` are the parts that are kept; of a sampled teacher its logits alone."""
        self._live, self._reduction, self._stream = live, reduction, stream
        self._kept = needs | Needs(logits=True)
        self._folder, self._room, self._note = folder, room, note
        self._count = stream.dataset.size("train")
        self._batch = min(stream.batch_size, self._count)
        self._memory = _Memory.of(folder / "meta.json")
        self._layout: Layout | None = None
        self._storing = True
        self._rows: RowFile | None = None
        self._view = -1
        self._told: set[str] = set()
        self._hit = False
        self._flops = 0
        self.account = Account()

    @property
    def digest(self) -> str:
        """The teacher's."""
        return self._live.digest

    @property
    def stage_names(self) -> tuple[str, ...]:
        """The teacher's."""
        return self._live.stage_names

    def flops(self) -> int:
        """Of the pass that was saved, or made."""
        return self._flops if self._hit else self._live.flops()

    def seconds(self) -> float:
        """Of the last pass, or what passes took when the outputs were stored."""
        return self._memory.seconds if self._hit else self._live.seconds()

    def close(self) -> None:
        """Let go of the open file; the next batch opens it again."""
        if self._rows is not None:
            self._rows.close()
        self._rows, self._view = None, -1

    def outputs(self, batch: Batch, needs: Needs) -> Features:
        """From the cache, or from the teacher; see the class."""
        self._hit = False
        if (needs | self._kept) != self._kept or len(batch.indices) != self._batch:
            self.account.beyond += self._batch if len(batch.indices) == self._batch else 0
            return self._run(batch, needs)[0]
        if self._layout is None:
            return self._begin(batch) if self._storing else self._run(batch, needs)[0]
        return self._looked_up(batch)

    # ------------------------------------------------------------ the teacher itself

    def _run(self, batch: Batch, needs: Needs) -> tuple[Features, Parts]:
        """What students see, and what is kept of it, from a pass of the teacher."""
        features = self._live.outputs(batch, needs)
        if len(batch.indices) == self._batch:
            self.account.ran += self._batch
        packed = self._reduction.packed(features, batch, needs)
        if self._reduction.changes:
            features = self._reduction.features(packed, features.logits.device)
        return features, packed

    def _begin(self, batch: Batch) -> Features:
        """The first batch: the layout of a row, and two doubts settled by trying."""
        features, packed = self._run(batch, self._kept)
        self._flops = self._live.flops()
        self._memory.add(self._live.seconds(), first=True)
        layout = Layout.of(packed)
        if layout is None:
            self._stop("a sample's outputs do not lie together in memory")
            return features
        rows = layout.rows(packed)
        if not (self._memory.independent or self._is_independent(batch, layout, rows)):
            self._stop("this teacher's answer for a sample depends on the others of its batch")
            return features
        self._memory.independent = True
        self._layout = layout
        file = self._file(batch)
        if file is not None and not self._agrees(file, batch, rows):
            self._tell("other outputs than this teacher's were stored: all are made anew")
            self.close()
            remove(self._folder)
            file = self._file(batch)
        self._remember()
        if file is not None:
            self._store(file, batch, rows)
        return features

    def _is_independent(self, batch: Batch, layout: Layout, rows: Bytes) -> bool:
        """Whether the same batch in another order gives each sample the same bits.

        Without that, samples of one batch could not be given in another.
        """
        inputs = torch.empty_like(batch.inputs).copy_(batch.inputs.flip(0))
        turned = replace(
            batch, inputs=inputs, labels=batch.labels.flip(0), indices=batch.indices.flip(0)
        )
        again = self._reduction.packed(self._live.outputs(turned, self._kept), turned, self._kept)
        found = Layout.of(again)
        return found == layout and np.array_equal(layout.rows(again)[::-1], rows)

    def _agrees(self, file: RowFile, batch: Batch, rows: Bytes) -> bool:
        """Whether what is stored of a batch is what the teacher says now."""
        indices = batch.indices.tolist()
        valid = file.valid(indices)
        return np.array_equal(file.take(indices, 0, file.nbytes)[valid], rows[valid])

    # ------------------------------------------------------------ the disk

    def _looked_up(self, batch: Batch) -> Features:
        """From the file, where it holds the whole batch."""
        file, indices = self._file(batch), batch.indices.tolist()
        if file is not None and bool(file.valid(indices).all()):
            return self._read(file, indices, batch)
        features, packed = self._run(batch, self._kept)
        if self._memory.add(self._live.seconds()):
            self._remember()
        if file is not None and self._layout is not None:
            layout = Layout.of(packed)
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
        return self._reduction.features(packed, batch.inputs.device)

    def _store(self, file: RowFile, batch: Batch, rows: Bytes) -> None:
        """Write the rows that are not there yet."""
        if not self._storing:
            return
        indices = batch.indices.tolist()
        missing = np.flatnonzero(~file.valid(indices))
        if file.damaged:
            self._tell("damaged rows are made anew")
        try:
            file.put([indices[i] for i in missing], rows[missing])
        except OSError as error:
            self._stop(_reason(error))

    def _file(self, batch: Batch) -> RowFile | None:
        """The open file of a batch's view; None where there is none and none may be made."""
        view = self._stream.view(batch.epoch)
        if view == self._view:
            return self._rows
        self.close()
        self._view = view
        assert self._layout is not None
        path = self._folder / f"view-{view:06d}.rows"
        wanted = 0 if path.is_file() else file_bytes(self._count, self._layout.nbytes)
        if not self._storing and wanted:
            return None
        try:
            if not self._room.admit(self._folder, wanted):
                self._stop(f"teacher.cap_gb ({self._room.cap / 1e9:g}) is reached")
                return None
            key = digest_of([self._folder.name, self._layout.described])
            self._rows = RowFile(
                path, key=key, view=view, count=self._count, nbytes=self._layout.nbytes
            )
        except OSError as error:
            self._stop(_reason(error))
            return None
        if self._rows.replaced:
            self._tell(f"{path.name} was damaged or not of this teacher: it is made anew")
        return self._rows

    def _remember(self) -> None:
        if self._storing:
            try:
                write_atomically(self._folder / "meta.json", self._memory.text)
            except (StorageError, OSError) as error:
                self._stop(str(error).partition(": ")[2] or str(error))

    def _stop(self, reason: str) -> None:
        """Nothing more is stored; what is there goes on being read."""
        self._storing = False
        self._tell(f"no more is kept: {reason}")

    def _tell(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self._note(f"teacher outputs: {text} ({self._folder})")


@dataclass
class _Memory:
    """What later runs may know without trying: `meta.json`."""

    independent: bool = False
    """A sample's outputs do not depend on the others of its batch."""
    total: float = 0.0
    passes: int = 0
    warming: float = 0.0
    """The first pass of a process, which is slower; of use only while there is no other."""

    @classmethod
    def of(cls, path: Path) -> _Memory:
        """From the file; a new one where there is none that can be read."""
        with suppress(OSError, ValueError, TypeError, KeyError):
            found = json.loads(path.read_text(encoding="utf-8"))
            return cls(found["independent"] is True, float(found["total"]), int(found["passes"]))
        return cls()

    @property
    def seconds(self) -> float:
        """Of one pass."""
        return self.total / self.passes if self.passes else self.warming

    def add(self, seconds: float, *, first: bool = False) -> bool:
        """Count a pass; whether this is a good moment to write it down."""
        if first:
            self.warming = seconds
            return False
        self.total += seconds
        self.passes += 1
        return self.passes & (self.passes - 1) == 0

    @property
    def text(self) -> str:
        """Of the file."""
        said = {"independent": self.independent, "total": self.total, "passes": self.passes}
        return json.dumps(said)


def _reason(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return "no space left on the disk"
    return f"cannot write: {error.strerror or error}"
