"""Masked language modelling: pieces of plain text that are hidden, judged by how many are named.

The mean cross-entropy of the hidden pieces is reported as a second figure.

Devlin et al., arXiv 1810.04805, section 3.1, task 1: some pieces of a sequence are chosen; of
these, 80 % are shown as [MASK], 10 % as any piece and 10 % as they are, and the network names all
of them. Here every sequence has the same number of chosen pieces, so that batches stay full, and
the network gives logits for these alone. They are drawn anew in every epoch; validation and test
keep one draw.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ktbench.data.counter import counter_hash, numbered
from ktbench.data.documents import Documents, documents
from ktbench.data.sources import counted
from ktbench.data.word_pieces import BEGIN, END, MASK, SPECIAL, WordPieces
from ktbench.records import ACCURACY, DataSpec, KtbenchError, canonical_json
from ktbench.students._contract import Inputs, parts
from ktbench.tasks import text_classification
from ktbench.tasks._classification import Classification
from ktbench.tasks._contract import Arrays, InputSpec, Labels, Signature, Source

_CHOICE, _CHANGE, _PIECE, _HELD_OUT = 5, 6, 7, 8
"""Numbers of the random streams of a mask's draws."""
_MASKED, _ANY = 0.8, 0.1
"""Shares of chosen pieces that are shown as [MASK], and as any piece."""
LOSS = "loss on masked pieces"
"""Name of the second figure."""
_FIRST = len(SPECIAL)
"""Number of the first piece that is text."""


@dataclass(frozen=True)
class Config:
    """Settings of masked texts."""

    length: int = 64
    """Word pieces of a sequence, [CLS] and [SEP] included; documents are cut into such."""
    share: float = 0.15
    """Share of a whole sequence's pieces that are to be named: as many in every sequence."""
    vocabulary: int = 4000
    """Most word pieces that are learnt from the training documents."""
    lowercase: bool = True
    """Read capital letters as small ones."""
    text_column: str | None = None
    """Column of the documents; `text` when not given, or another usual name."""

    def __post_init__(self) -> None:
        """Raise ValueError for what cannot be a length, a vocabulary or a share."""
        text_classification.Config(length=self.length, vocabulary=self.vocabulary)
        if type(self.share) not in (int, float) or not 0 < self.share <= 0.5:
            raise ValueError(f"share must be above 0 and at most 0.5, not {self.share}")

    @property
    def masked(self) -> int:
        """Pieces of each sequence that are to be named."""
        return max(1, round(self.share * (self.length - 2)))


class Learning(text_classification.Learning):
    """See the file. Raw samples are ids and mask (length,) and positions (masked,), all int32.

    The ids are those that are shown under one fixed draw; labels (masked,) are the hidden pieces.
    """

    noun = "text"

    def __init__(self, config: Config) -> None:
        Classification.__init__(self, config)
        self.metric = ACCURACY.model_copy(update={"name": "accuracy on masked pieces"})

    def open(self, spec: DataSpec, base: Path) -> Source:
        """See `Task.open`: documents cut into sequences, each with its fixed draw."""
        c: Config = self.config
        read = documents(
            spec, base, column=c.text_column, vocabulary=c.vocabulary, lowercase=c.lowercase
        )
        pieces = WordPieces(read.tokenizer, c.length)
        by_split, notes = {}, list(read.notes)
        for split, numbers in read.numbered().items():
            by_split[split], left_out = cut(numbers, c.length, c.masked)
            if left_out:
                notes.append(
                    f"{counted(left_out, 'word piece')} of {split} left out: the ends of documents "
                    f"that would not fill half of a sequence"
                )
            if not len(by_split[split][0]):
                raise KtbenchError(
                    f"data: {read.name}: no document of {split} fills half of {c.length} word "
                    "pieces: set a smaller length in data.task"
                )
        shown = {
            split: fixed(ids, mask, c.masked, pieces.size, _held_out_seed(spec, split))
            for split, (ids, mask) in by_split.items()
        }

        def rows(split: str, chosen: Labels) -> Arrays:
            ids, positions, _ = shown[split]
            return ids[chosen], by_split[split][1][chosen], positions[chosen]

        return Source(
            name=read.name,
            classes=_names(pieces.described),
            labels={split: hidden for split, (_, _, hidden) in shown.items()},
            read=rows,
            row_name=lambda split, row: f"{read.name}, {split} sequence {row}",
            notes=tuple(notes),
            about=_about(read, by_split),
            facts={
                "vocabulary": pieces.size,
                "tokenizer": pieces.described,
                "special": pieces.special,
            },
        )

    def problem(self, spec: DataSpec, signature: Signature) -> tuple[tuple[str, ...], str] | None:
        """See `Task.problem`: there are no labels."""
        if spec.label_column is not None:
            return ("label_column",), "masked texts are their own labels: leave it out"
        return super().problem(spec, signature)

    def signature(
        self, classes: int, shapes: tuple[tuple[int, ...], ...], facts: Mapping[str, Any]
    ) -> Signature:
        """See `Task.signature`."""
        vocabulary = int(facts["vocabulary"])
        (length,), _, (masked,) = shapes
        sizes = {"num_classes": vocabulary, "vocabulary": vocabulary, "length": length}
        return Signature(
            inputs=(
                InputSpec("ids", (length,), below=vocabulary),
                InputSpec("mask", (length,), below=2),
                InputSpec("positions", (masked,), below=length),
            ),
            outputs=vocabulary,
            sizes=(*sizes.items(), ("masked", masked)),
            noun="text",
            sized_by="data.task.length",
            predictions=masked,
            reads=text_classification.vocabulary_digest(facts),
            essential=("masked",),
        )

    def augmentation(self, spec: DataSpec) -> str:
        """See `Task.augmentation`."""
        return canonical_json({"masked": self.config.masked})

    def samples(
        self,
        spec: DataSpec,
        raw: Inputs,
        labels: Tensor,
        statistics: tuple[Tensor, ...],
        seed: int,
    ) -> Masked:
        """See `Task.samples`; statistics[1] counts the vocabulary."""
        ids, mask, positions = parts(raw)
        plain = ids.scatter(1, positions.long(), labels.to(ids.dtype))
        return Masked((plain, mask), labels.shape[1], int(statistics[1]), seed)

    def statistics(self, raw: Inputs, facts: Mapping[str, Any]) -> tuple[Tensor, ...]:
        """Return the tokenizer's digest as bytes, and the number of its pieces."""
        (digest,) = super().statistics(raw, facts)
        return digest, torch.tensor(int(facts["vocabulary"]))

    # ------------------------------------------------------------ quality

    def per_sample(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the named piece and the loss of each prediction, (B * masked, 2), float64."""
        losses = functional.cross_entropy(outputs, labels, reduction="none")
        return torch.stack([self.predictions(outputs).double(), losses.double()], dim=1)

    def score(self, per_sample: Tensor, labels: Tensor) -> float:
        """Return the share of pieces that are named; named pieces alone, as of boards, will do."""
        return super().score(per_sample[:, 0] if per_sample.ndim > 1 else per_sample, labels)

    def beside(self, per_sample: Tensor, labels: Tensor) -> dict[str, float]:
        """Return the mean loss of the hidden pieces in nats; its exponential is the perplexity."""
        return {LOSS: float(per_sample[:, 1].mean())}

    # ------------------------------------------------------------ the exported file

    def reading(self) -> None:
        """See `Task.reading`: nobody has texts with masked pieces."""
        return

    def sidecar(
        self, signature: Signature, statistics: tuple[Tensor, ...], facts: Mapping[str, Any]
    ) -> dict[str, dict[str, Any]]:
        """See `Task.sidecar`."""
        told = "places of the pieces to name, a row of logits each, in order"
        places = {"meaning": told, "range": [0, signature.inputs[0].shape[0] - 1]}
        return super().sidecar(signature, statistics, facts) | {"positions": places}


@dataclass(frozen=True)
class Masked:
    """Training sequences, masked anew in every view; see `Samples`."""

    kept: tuple[Tensor, ...]
    """Ids and mask (N, length) as they are in the text."""
    masked: int
    vocabulary: int
    seed: int

    def inputs(self, indices: Tensor, view: int) -> Inputs:
        """Return shown ids and mask (B, length) and positions (B, masked), int64."""
        ids, mask, positions = self._drawn(indices, view)
        shown = changed(ids, positions, indices.cpu().numpy(), self.vocabulary, self.seed, view)
        made = (torch.from_numpy(part).long() for part in (shown, mask, positions))
        return tuple(part.to(self.kept[0].device) for part in made)

    def labels(self, indices: Tensor, view: int) -> Tensor:
        """Return the pieces at these positions, (B * masked,) int64."""
        ids, _, positions = self._drawn(indices, view)
        hidden = np.take_along_axis(ids, positions, 1)
        return torch.from_numpy(hidden).long().flatten().to(self.kept[0].device)

    def _drawn(
        self, indices: Tensor, view: int
    ) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int64]]:
        """Return ids, mask and positions of some samples in a view."""
        ids, mask = (part[indices].cpu().numpy() for part in self.kept)
        positions = choose(mask, self.masked, indices.cpu().numpy(), self.seed, view)
        return ids, mask, positions


# ---------------------------------------------------------------- draws


def choose(
    mask: NDArray[np.int32], count: int, numbers: NDArray[np.int64], seed: int, view: int
) -> NDArray[np.int64]:
    """Return positions (B, count), rising, of the pieces to name; never [CLS], [SEP] or padding.

    `numbers` (B,) are the samples' own: a draw is a function of seed, view and sample alone.
    """
    length = mask.shape[1]
    counters = numbers[:, None] * length + np.arange(length)
    words = counter_hash(seed, numbered(_CHOICE, view), counters)
    ends = mask.sum(1, keepdims=True) - 1
    places = np.arange(length)
    words[(places == 0) | (places >= ends)] = np.iinfo(np.uint64).max
    return np.sort(np.argsort(words, axis=1, kind="stable")[:, :count], axis=1)


def changed(
    ids: NDArray[np.int32],
    positions: NDArray[np.int64],
    numbers: NDArray[np.int64],
    vocabulary: int,
    seed: int,
    view: int,
) -> NDArray[np.int32]:
    """Return ids (B, length) as they are shown: the chosen pieces by the rule of 80, 10 and 10."""
    counters = numbers[:, None] * ids.shape[1] + positions
    share = (counter_hash(seed, numbered(_CHANGE, view), counters) >> np.uint64(11)) * 2.0**-53
    drawn = counter_hash(seed, numbered(_PIECE, view), counters) % np.uint64(vocabulary - _FIRST)
    own = np.take_along_axis(ids, positions, 1)
    any_piece = (drawn + np.uint64(_FIRST)).astype(ids.dtype)
    new = np.where(share < _MASKED, SPECIAL.index(MASK), own)
    new = np.where((share >= _MASKED) & (share < _MASKED + _ANY), any_piece, new)
    shown = ids.copy()
    np.put_along_axis(shown, positions, new.astype(ids.dtype), 1)
    return shown


def fixed(
    ids: NDArray[np.int32], mask: NDArray[np.int32], count: int, vocabulary: int, seed: int
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int64]]:
    """Return shown ids, positions and hidden pieces under the one draw that a split keeps."""
    numbers = np.arange(len(ids))
    positions = choose(mask, count, numbers, seed, 0)
    shown = changed(ids, positions, numbers, vocabulary, seed, 0)
    hidden = np.take_along_axis(ids, positions, 1).astype(np.int64)
    return shown, positions.astype(np.int32), hidden


def _held_out_seed(spec: DataSpec, split: str) -> int:
    order = ("train", "validation", "test")
    return int(counter_hash(spec.split_seed, _HELD_OUT, order.index(split)))


# ---------------------------------------------------------------- sequences


def cut(
    numbers: list[NDArray[np.int32]], length: int, masked: int
) -> tuple[tuple[NDArray[np.int32], NDArray[np.int32]], int]:
    """Cut documents into sequences; return ids and mask (n, length), and the pieces left out.

    A sequence is [CLS], pieces of one document, [SEP], and padding at a document's end; an end that
    would not fill half of one is left out.
    """
    room = length - 2
    least = max(masked, (room + 1) // 2)
    pieces = [
        document[start : start + room]
        for document in numbers
        for start in range(0, len(document), room)
    ]
    whole = [piece for piece in pieces if len(piece) >= least]
    ids = np.zeros((len(whole), length), np.int32)
    mask = np.zeros((len(whole), length), np.int32)
    ids[:, 0] = SPECIAL.index(BEGIN)
    for row, piece in enumerate(whole):
        end = len(piece) + 1
        ids[row, 1:end], ids[row, end], mask[row, : end + 1] = piece, SPECIAL.index(END), 1
    return (ids, mask), sum(map(len, pieces)) - sum(map(len, whole))


def _names(tokenizer: dict[str, Any]) -> tuple[str, ...]:
    """Return the pieces by their numbers."""
    vocabulary: dict[str, int] = tokenizer["model"]["vocab"]
    return tuple(sorted(vocabulary, key=lambda piece: vocabulary[piece]))


def _about(read: Documents, by_split: Mapping[str, tuple[NDArray[np.int32], Any]]) -> str:
    count = sum(map(len, read.texts.values()))
    sequences = sum(len(ids) for ids, _ in by_split.values())
    return f"{count:,} documents in column {read.column!r}, cut into {sequences:,} texts"
