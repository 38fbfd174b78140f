"""Text classification: one or two sentences as word pieces, a class each.

Judged by accuracy, or by Matthews' correlation, as CoLA is (GLUE, Wang et al. 2019).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ktbench import catalogue
from ktbench.data.documents import documents
from ktbench.data.texts import TextTable, texts
from ktbench.data.word_pieces import (
    MOST_PIECES,
    PAD,
    Text,
    WordPieces,
    learn,
    read_tokenizer,
    segments,
)
from ktbench.records import DataSpec, KtbenchError, canonical_json, digest_of
from ktbench.students._contract import FilePath, Inputs, each, parts
from ktbench.tasks._classification import METRICS, Classification
from ktbench.tasks._contract import (
    Arrays,
    InputSpec,
    Labels,
    Reading,
    Samples,
    Signature,
    Source,
    objection_to_image_keys,
)
from ktbench.tasks._reading import TEXT

TOKENIZER = "tokenizer.json"
"""File that turns texts into ids, beside each exported one."""


@dataclass(frozen=True)
class Config:
    """Settings of texts."""

    length: int = 64
    """Word pieces that a network reads, [CLS] and [SEP] included; longer texts are cut."""
    vocabulary: int = 4000
    """Most word pieces that are learnt from the training texts."""
    lowercase: bool = True
    """Read capital letters as small ones."""
    text_column: str | None = None
    """Column of the texts; chosen automatically where it is unambiguous."""
    text_pair_column: str | None = None
    """Column of the second texts; chosen automatically where `text_column` is not given."""
    metric: str = "accuracy"
    """Metric that networks are judged by: accuracy, or matthews for Matthews' correlation."""
    vocabulary_of: str | None = None
    """Tables of plain documents, as in `path`, from which the word pieces are learnt in place of
    these texts: those of a `masked_language_model` that students start from."""
    tokenizer: FilePath | None = None
    """A `tokenizer.json` of the `tokenizers` library, with BERT's special pieces, in place of a
    vocabulary that is learnt: that of a pretrained network."""

    def __post_init__(self) -> None:
        """Raise ValueError for what cannot be a length or a vocabulary."""
        if type(self.length) is not int or not 4 <= self.length <= 4096:
            raise ValueError(f"length must be 4 to 4096 word pieces, not {self.length}")
        if type(self.vocabulary) is not int or not 100 <= self.vocabulary <= MOST_PIECES:
            raise ValueError(
                f"vocabulary must be 100 to {MOST_PIECES:,} pieces, not {self.vocabulary}"
            )
        if self.metric not in METRICS:
            raise ValueError(f"metric must be one of {', '.join(METRICS)}, not {self.metric}")
        if self.tokenizer is not None:
            for name in ("vocabulary", "lowercase", "vocabulary_of"):
                if getattr(self, name) != getattr(type(self), name):
                    raise ValueError(f"{name} is the tokenizer's own: leave it out")


class Learning(Classification):
    """See the file. Raw samples are ids, mask and, of pairs, segments, each (length,) int32."""

    noun = "text"

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.metric = METRICS[config.metric]

    def open(self, spec: DataSpec, base: Path) -> Source:
        """See `Task.open`; the vocabulary is learnt from the training rows."""
        c: Config = self.config
        table = texts(spec, base, text=c.text_column, pair=c.text_pair_column)

        def fit(split: str, rows: Labels) -> Source:
            return self._fitted(table, split, rows, self._tokenizer(spec, base))

        def read(split: str, rows: Labels) -> Arrays:
            raise KtbenchError("data: texts are read once their vocabulary is learnt")

        return Source(
            table.name, table.classes, table.labels, read, table.row_name, table.notes,
            table.about, fit=fit,
        )  # fmt: skip

    def _tokenizer(self, spec: DataSpec, base: Path) -> str | None:
        """Return a tokenizer that is not learnt from these texts, or None.

        Raises KtbenchError for a user's own that is not the plan's.
        """
        c: Config = self.config
        if c.vocabulary_of is not None:
            other = DataSpec(source="parquet", path=c.vocabulary_of, split_seed=spec.split_seed)
            size, lowercase = c.vocabulary, c.lowercase
            try:
                read = documents(other, base, column=None, vocabulary=size, lowercase=lowercase)
            except KtbenchError as error:
                reason = str(error).removeprefix("data: ")
                raise KtbenchError(f"data: vocabulary_of: {reason}") from error
            return read.tokenizer
        if c.tokenizer is None:
            return None
        code = catalogue.task_code(spec.task, str(base))
        if spec.task.code not in (None, code):
            raise KtbenchError(
                f"data: {Path(base, c.tokenizer)} has changed since it was planned: plan again"
            )
        return read_tokenizer(Path(base, c.tokenizer))

    def _fitted(self, table: TextTable, split: str, rows: Labels, tokenizer: str | None) -> Source:
        c: Config = self.config
        training: list[Text] = table.read(split, rows)
        if tokenizer is None:
            tokenizer = learn(training, c.vocabulary, lowercase=c.lowercase)
        pieces = WordPieces(tokenizer, c.length)
        pairs = isinstance(training[0], tuple)

        def read(split: str, rows: Labels) -> Arrays:
            ids, mask = pieces.numbers(table.read(split, rows))
            return (ids, mask, segments(ids, mask, pieces.end)) if pairs else (ids, mask)

        def survey(rows: Mapping[str, tuple[str, Labels]]) -> tuple[str, ...]:
            return pieces.remarks({name: table.read(*where) for name, where in rows.items()})

        facts = {
            "vocabulary": pieces.size,
            "tokenizer": pieces.described,
            "special": pieces.special,
        }
        return Source(
            table.name, table.classes, table.labels, read, table.row_name, table.notes,
            f"{table.about}, {pieces.size:,} word pieces", facts, survey=survey,
        )  # fmt: skip

    def problem(self, spec: DataSpec, signature: Signature) -> tuple[tuple[str, ...], str] | None:
        """See `Task.problem`: what shapes images has no meaning for texts."""
        return objection_to_image_keys(spec, self.noun)

    def signature(
        self, classes: int, shapes: tuple[tuple[int, ...], ...], facts: Mapping[str, Any]
    ) -> Signature:
        """See `Task.signature`."""
        vocabulary = int(facts["vocabulary"])
        (length,) = shapes[0]
        inputs = (
            InputSpec("ids", (length,), below=vocabulary),
            InputSpec("mask", (length,), below=2),
            InputSpec("segments", (length,), below=2),
        )
        return Signature(
            inputs=inputs[: len(shapes)],
            outputs=classes,
            sizes=(("num_classes", classes), ("vocabulary", vocabulary), ("length", length)),
            noun="text",
            sized_by="data.task.length",
            reads=vocabulary_digest(facts),
        )

    def statistics(self, raw: Inputs, facts: Mapping[str, Any]) -> tuple[Tensor, ...]:
        """Return the digest of the tokenizer as bytes, by which `between` tells them apart."""
        digest = hashlib.sha256(canonical_json(facts["tokenizer"]).encode()).digest()
        return (torch.tensor(list(digest), dtype=torch.uint8),)

    def between(
        self, source: tuple[Tensor, ...], target: tuple[Tensor, ...]
    ) -> Callable[[Inputs], Inputs] | None:
        """See `Task.between`: ids of one vocabulary say nothing in another."""
        if not torch.equal(source[0], target[0]):
            raise KtbenchError(
                "data: teacher and student read other word pieces: give both the same training "
                "texts, validation_size and test_size"
            )
        return None

    def inputs(self, raw: Inputs, statistics: tuple[Tensor, ...]) -> Inputs:
        """Return them as int64, as networks index with them."""
        return each(raw, Tensor.long)

    def samples(
        self,
        spec: DataSpec,
        raw: Inputs,
        labels: Tensor,
        statistics: tuple[Tensor, ...],
        seed: int,
    ) -> Samples:
        """See `Task.samples`; texts are not augmented."""
        return Texts(parts(raw), labels)

    def sidecar(
        self, signature: Signature, statistics: tuple[Tensor, ...], facts: Mapping[str, Any]
    ) -> dict[str, dict[str, Any]]:
        """See `Task.sidecar`; the tokenizer is a file beside the exported one."""
        special = facts["special"]
        told = f"numbers of word pieces, padded with {special[PAD]} or cut to the length"
        return {
            "ids": {"meaning": told, "range": [0, facts["vocabulary"] - 1],
                    "tokenizer": TOKENIZER, "special": special},
            "mask": {"meaning": "1 for a piece, 0 for padding", "range": [0, 1]},
            "segments": {"meaning": "1 for a piece of the second text", "range": [0, 1]},
        }  # fmt: skip

    def files_beside(self, facts: Mapping[str, Any]) -> dict[str, str]:
        """Return the tokenizer, as the `tokenizers` library reads it; it cuts and pads, too."""
        return {TOKENIZER: json.dumps(facts["tokenizer"], ensure_ascii=False, indent=1) + "\n"}

    def reading(self) -> Reading | None:
        """See `Task.reading`."""
        return TEXT


def vocabulary_digest(facts: Mapping[str, Any]) -> str:
    """Return 16 digits over how texts become numbers, wherever these are cut."""
    tokenizer = facts["tokenizer"]
    return digest_of([tokenizer["normalizer"], tokenizer["pre_tokenizer"], tokenizer["model"]])


@dataclass(frozen=True)
class Texts:
    """Training texts; see `Samples`."""

    kept: tuple[Tensor, ...]
    classes: Tensor

    def labels(self, indices: Tensor, view: int) -> Tensor:
        """Classes (B,)."""
        return self.classes[indices]

    def inputs(self, indices: Tensor, view: int) -> Inputs:
        """Return ids, mask and, of pairs, segments (B, length), int64."""
        return tuple(part[indices].long() for part in self.kept)
