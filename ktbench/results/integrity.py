"""Checks that a cell's files are still what was written: weights, curves, artifacts, teachers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal

from ktbench.records import Checkpoint, KtbenchError, Metric, Result
from ktbench.results.lock import Lock
from ktbench.results.membership import beside
from ktbench.results.raw import read_curve
from ktbench.results.storage import DamagedError, Mark, Stored, unsuitable_reason
from ktbench.system.files import UnsuitableFileError, read_regular

MISSING = "is missing"
"""The reason of a fault that may be on purpose: published results leave weights out."""
Part = Literal["weights", "curves", "artifact", "teacher", "start"]


@dataclass(frozen=True)
class Fault:
    """A file that is missing or is not what was written."""

    path: str
    """Path relative to the results folder."""
    reason: str
    part: Part
    export: str = ""
    """Label of the export, for an artifact."""


@dataclass
class Integrity:
    """Checks the files of a folder's cells; those that several cells share are read once."""

    root: Path
    lock: Lock | None
    _known: dict[tuple[str, Mark | str | None], str | None] = field(default_factory=dict)

    def faults(self, stored: Stored[Result]) -> list[Fault]:
        """All faults among the files of a result."""
        faults: list[Fault] = []
        result = stored.record
        if result.checkpoint is not None:
            faults += self._checkpoint(result.checkpoint, stored, "weights", "curves")
        for artifact in result.artifacts:
            label, sidecar = artifact.export.label, f"{artifact.path}.json"
            reason = self._file(artifact.path, Mark(artifact.bytes, artifact.digest))
            faults += [Fault(artifact.path, reason, "artifact", label)] if reason else []
            reason = self._file(sidecar, stored.files.get(sidecar))
            faults += [Fault(sidecar, reason, "artifact", label)] if reason else []
            if reason is None:
                faults += self._beside(sidecar, label)
        for checkpoint in beside(result):
            faults += self._checkpoint(checkpoint, stored, "teacher", "teacher")
        if result.start is not None:
            start = result.start
            reason = self._weights(start.path, start.digest, stored.files.get(start.path))
            faults += [Fault(start.path, reason, "start")] if reason else []
        return faults

    def _beside(self, sidecar: str, label: str) -> Iterator[Fault]:
        """Check the files that a sidecar names, such as a tokenizer, as it describes them."""
        try:
            beside = json.loads(read_regular(self.root / sidecar)).get("beside", {})
            marks = {
                PurePosixPath(sidecar).with_name(name).as_posix(): Mark(
                    about["bytes"], about["sha256_16"]
                )
                for name, about in beside.items()
            }
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            yield Fault(sidecar, "is no sidecar of an exported file", "artifact", label)
            return
        for path, mark in marks.items():
            reason = self._file(path, mark)
            if reason:
                yield Fault(path, reason, "artifact", label)

    def _checkpoint(
        self, checkpoint: Checkpoint, stored: Stored[Result], weights: Part, curves: Part
    ) -> Iterator[Fault]:
        reason = self._weights(
            checkpoint.path, checkpoint.digest, stored.files.get(checkpoint.path)
        )
        if reason:
            yield Fault(checkpoint.path, reason, weights)
        metric = self.lock.metric_of(stored.record.cell) if self.lock is not None else None
        reason = self._curve(checkpoint, stored.files.get(checkpoint.curves), metric)
        if reason:
            yield Fault(checkpoint.curves, reason, curves)

    def _curve(
        self, checkpoint: Checkpoint, mark: Mark | None, metric: Metric | None
    ) -> str | None:
        name = (checkpoint.curves, mark)
        if name not in self._known:
            try:
                read_curve(self.root / checkpoint.curves, checkpoint, mark, metric=metric)
                self._known[name] = None
            except DamagedError as error:
                self._known[name] = error.reason
        return self._known[name]

    def _weights(self, path: str, digest: str, mark: Mark | None) -> str | None:
        """Check weights; without a mark their own digest is computed, which takes longer."""
        reason = self._file(path, mark)
        if reason or mark is not None:
            return reason
        name = (path, digest)
        if name not in self._known:
            self._known[name] = other_weights(self.root / path, digest)
        return self._known[name]

    def _file(self, path: str, mark: Mark | None) -> str | None:
        name = (path, mark)
        if name not in self._known:
            self._known[name] = other_file(self.root / path, mark)
        return self._known[name]


def other_file(path: Path, mark: Mark | None) -> str | None:
    """Reason why a file does not match its mark, or None; without a mark it must exist."""
    try:
        size = path.stat().st_size
        if mark is not None and size != mark.bytes:
            return f"has {size:,} bytes instead of {mark.bytes:,}"
        now = Mark.of(path) if mark is not None else None
    except FileNotFoundError:
        return MISSING
    except UnsuitableFileError as error:
        return unsuitable_reason(error)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if not path.is_file():
        return "is not a regular file"
    return None if now == mark else "is not what was written: another digest"


def other_weights(path: Path, digest: str) -> str | None:
    """Reason why a file does not hold the weights of a digest, or None."""
    from ktbench.networks.weights import read_torch, weights_digest  # torch takes seconds to import

    try:
        same = weights_digest(read_torch(path)) == digest
    except (KtbenchError, AttributeError, TypeError):
        return "holds no readable weights"
    return None if same else "holds other weights than were trained"
