"""A user's file of weights that a training begins from, and how a network's parts learn then."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from ktbench.records.base import Record, digest_of, without_unset
from ktbench.records.bounds import Count, Name, Words
from ktbench.records.printable import Line, Number, printable

_SHOWN = 3
"""Names that a line lists."""
_LONGEST = 200
"""Longest text on parts in a label; the rest is a digest."""


class WeightsFile(Record):
    """Weights of a file that a training begins from; the key holds their digest, not their path."""

    file: Line
    """Path, relative to the matrix file."""
    digest: str
    """SHA-256 (16 digits) of the file, so that other weights of the same name are another key."""
    head: Literal["new", "keep"] | None = None
    """Origin of the head: drawn anew, or the file's. None: new where the shapes differ."""
    freeze: tuple[Line, ...] = ()
    """Parts that are not trained, in alphabetical order."""
    lr_scale: dict[Line, Annotated[Number, Field(gt=0)]] = Field(default_factory=dict)
    """Factors of the learning rate, by part."""
    match: Literal["order"] | None = None
    """How tensors are told apart: by their order in the file, or (None) by their names."""

    @model_serializer(mode="wrap")
    def _as_before(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave unsaid that tensors are told apart by their names."""
        return without_unset(plain(self), "match")

    def _named(self) -> dict[str, Any]:
        fields = super()._named()
        del fields["file"]
        return fields

    @property
    def label(self) -> str:
        """`weights.pt (freeze stem, stage1; stage2 x 0.1; head new)`: unique within a matrix."""
        parts = [f"freeze {', '.join(self.freeze)}"] if self.freeze else []
        parts += [f"{part} x {factor:.12g}" for part, factor in sorted(self.lr_scale.items())]
        parts += [f"head {self.head}"] if self.head else []
        parts += [f"match {self.match}"] if self.match else []
        told = "; ".join(parts)
        if len(told) > _LONGEST:
            told = f"{told[:_LONGEST]}… {digest_of([list(self.freeze), self.lr_scale])[:6]}"
        return printable(f"{self.file} ({told})" if parts else self.file)


class FileMatch(Record):
    """Comparison of a file's weights with the network that begins from them."""

    tensors: Count
    """Tensors in the file."""
    head: Words
    """Origin of the head, and why: `new: ...` or `kept: ...`."""
    missing: tuple[Name, ...] = ()
    """Tensors of the network that the file lacks, those of a new head left out."""
    unexpected: tuple[Name, ...] = ()
    """Tensors of the file that the network has no place for."""
    reshaped: dict[Name, Words] = Field(default_factory=dict)
    """Both shapes of the tensors whose shapes differ, those of a new head left out."""

    @property
    def differences(self) -> str:
        """`2 missing (first: a, b), 18 unexpected (first: ...)`; empty where all is alike."""
        kinds = {
            "missing": self.missing,
            "unexpected": self.unexpected,
            "of another shape": tuple(self.reshaped),
        }
        return ", ".join(
            f"{len(names)} {kind} (first: {', '.join(names[:_SHOWN])})"
            for kind, names in kinds.items()
            if names
        )


class Begun(Record):
    """The tensors of a network that begins from another training's weights, or from a file's."""

    taken: Count
    """Number of tensors whose names and shapes both have, those of a new head left out."""
    new: tuple[Name, ...]
    """Names of the others, which were freshly drawn."""
    file: FileMatch | None = None
    """Comparison with the file; None where the weights are those of a training."""

    @model_serializer(mode="wrap")
    def _as_before(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what a start from another training has not."""
        return without_unset(plain(self), "file")

    @property
    def line(self) -> str:
        """`62 of 64 tensors (80 in the file); head new: ...; 2 missing (first: ...)`."""
        counts = f"{self.taken} of {self.taken + len(self.new)} tensors"
        if self.file is None:
            return counts
        parts = [f"{counts} ({self.file.tensors} in the file)", f"head {self.file.head}"]
        return "; ".join([*parts, *([self.file.differences] if self.file.differences else [])])
