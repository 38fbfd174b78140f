"""Trained teachers on disk, shared by every matrix of this user.

A teacher is found by everything that its weights depend on: its cell, the bytes of its data set,
torch's version and the kind of machine. The folder is `$KTBENCH_CACHE/teachers`, or
`~/.cache/ktbench/teachers`; it may be copied to another machine of the same kind.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from ktbench.networks.instruction_set import kind
from ktbench.networks.weights import read_torch, weights_digest
from ktbench.records import Cell, Checkpoint, KtbenchError, StorageError, digest_of
from ktbench.system.files import PREFIX, cache_folder, write_atomically
from ktbench.system.locks import lock


class TeacherStore:
    """The store: one folder per teacher with its weights, curves and record."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = root if root is not None else cache_folder() / "teachers"

    def folder(self, cell: Cell, data_digest: str) -> Path:
        """Return the folder of a teacher, which need not have been trained."""
        name = digest_of([cell.key, data_digest, torch.__version__, kind()])
        return self.root / name

    @contextmanager
    def held(self, cell: Cell, data_digest: str) -> Iterator[None]:
        """Hold a teacher: other runs wait here, and then find it trained.

        What a killed run left half written is removed. Raises StorageError when the store cannot
        be written.
        """
        folder = self.folder(cell, data_digest)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(folder / "held", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise StorageError(
                f"{folder}: cannot write: {error.strerror}: set KTBENCH_CACHE to another folder"
            ) from error
        try:
            lock(handle)
            for leftover in folder.glob(f"{PREFIX}*"):
                leftover.unlink(missing_ok=True)
            yield
        finally:
            os.close(handle)  # which frees the lock

    def find(
        self, cell: Cell, data_digest: str, note: Callable[[str], None] = lambda _: None
    ) -> Checkpoint | None:
        """Return the record of a teacher that is whole, else None; a damaged one is noted."""
        folder = self.folder(cell, data_digest)
        record = folder / "checkpoint.json"
        if not record.exists():
            return None
        try:
            checkpoint = Checkpoint.model_validate_json(record.read_text())
            if weights_digest(read_torch(folder / checkpoint.path)) != checkpoint.digest:
                raise ValueError("other weights than were trained")
            (folder / checkpoint.curves).stat()
        except (OSError, ValueError, AttributeError, KtbenchError) as error:
            reason = str(error).splitlines()[0][:200]
            note(f"{folder}: the stored teacher is damaged ({reason}): trained again")
            return None
        return checkpoint

    def keep(self, cell: Cell, data_digest: str, checkpoint: Checkpoint) -> None:
        """Write the record, which `find` returns from now on."""
        folder = self.folder(cell, data_digest)
        write_atomically(folder / "checkpoint.json", checkpoint.model_dump_json(indent=1))
