"""Plain texts without labels: documents in tables, and the word pieces learnt of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ktbench.data.columns import is_text
from ktbench.data.counter import counter_hash
from ktbench.data.sources import counted, some
from ktbench.data.tables import table_source
from ktbench.data.word_pieces import learn, numbers_of
from ktbench.records import DataSpec, KtbenchError, StorageError, canonical_json
from ktbench.system import extras
from ktbench.system.files import cache_folder, write_atomically

_USUAL = ("text", "document", "content", "sentence")
_SET_ASIDE = {"test": 0.2, "validation": 0.1}
"""Shares of the training documents, where a data set has no such split."""
_SALTS = {"test": 1, "validation": 2}
_VERSION = 1
"""Version of what is learnt: vocabularies of another are not used."""


@dataclass(frozen=True)
class Documents:
    """Documents by split, and the tokenizer (as JSON) learnt from those of the training split."""

    name: str
    column: str
    texts: Mapping[str, Sequence[str]] = field(repr=False)
    tokenizer: str = field(repr=False)
    notes: tuple[str, ...]

    @lru_cache(maxsize=1)  # noqa: B019 - documents are cached themselves, and few
    def numbered(self) -> dict[str, list[NDArray[np.int32]]]:
        """Return each document as the numbers of its word pieces, by split."""
        return {split: numbers_of(self.tokenizer, texts) for split, texts in self.texts.items()}

    def __hash__(self) -> int:
        """Hash by identity."""
        return id(self)


def documents(
    spec: DataSpec, base: Path, *, column: str | None, vocabulary: int, lowercase: bool
) -> Documents:
    """Read a table's documents, and learn word pieces of all that may be trained on.

    A split that the table lacks is set aside from its training documents, whole documents at a
    time, by `split_seed`. Read once per process. Raises KtbenchError where there are no texts.
    """
    source, path = spec.source, spec.path
    plain = DataSpec(source=source, path=path, split_seed=spec.split_seed)
    return _documents(plain, base, column, vocabulary, lowercase)


@lru_cache(maxsize=2)
def _documents(
    spec: DataSpec, base: Path, column: str | None, vocabulary: int, lowercase: bool
) -> Documents:
    opened = table_source(spec, base, {column} if column else _USUAL)
    name, train = opened.name, opened.by_split["train"]
    chosen = column or next((c for c in _USUAL if c in train.schema.names), None)
    if chosen is None:
        raise KtbenchError(
            f"data: {name} has no column named {some(list(_USUAL))}, only "
            f"{some(train.schema.names, 20)}: rename it, or set text_column in data.task of a "
            "masked_language_model"
        )
    texts: dict[str, list[str]] = {}
    notes = list(opened.notes)
    for split, table in opened.by_split.items():
        texts[split], empty = _texts_of(f"{name}: the {split} split", table, chosen)
        if empty:
            notes.append(f"{counted(empty, 'document')} of {split} without text left out")
    _set_aside(name, texts, spec.split_seed)
    tokenizer = _learnt(texts["train"], vocabulary, lowercase=lowercase)
    return Documents(name, chosen, texts, tokenizer, tuple(notes))


def _texts_of(where: str, table: Any, column: str) -> tuple[list[str], int]:
    """Return a column's texts, and the number of rows that have none."""
    if column not in table.schema.names:
        raise KtbenchError(
            f"data: {where} has no column {column!r}, only {some(table.schema.names, 20)}"
        )
    if not is_text(table.schema.field(column).type):
        raise KtbenchError(f"data: {where}: column {column!r} holds no text")
    values = table.column(column).to_pylist()
    texts = [value for value in values if value is not None and value.strip()]
    return texts, len(values) - len(texts)


def _set_aside(name: str, texts: dict[str, list[str]], seed: int) -> None:
    """Move some training documents to each split that is missing."""
    missing = [split for split in _SET_ASIDE if split not in texts]
    count = len(texts["train"])
    if count <= len(missing):
        raise KtbenchError(
            f"data: {name} has {counted(count, 'training document')}: give more, or files for "
            "validation and test"
        )
    left = np.arange(count)
    for split in missing:
        size = max(1, round(_SET_ASIDE[split] * count))
        order = np.argsort(counter_hash(seed, _SALTS[split], left), kind="stable")
        chosen = np.sort(left[order[:size]])
        texts[split] = [texts["train"][number] for number in chosen.tolist()]
        left = np.setdiff1d(left, chosen)
    texts["train"] = [texts["train"][number] for number in left.tolist()]


def _learnt(texts: Sequence[str], size: int, *, lowercase: bool) -> str:
    """Return what `learn` returns, from `$KTBENCH_CACHE/vocabularies` where it was learnt before.

    Long texts take minutes, and every process of a run reads them.
    """
    extras.require("text", "a vocabulary of word pieces")
    total = hashlib.sha256(
        canonical_json([_VERSION, version("tokenizers"), size, lowercase]).encode()
    )
    for text in texts:
        total.update(f"{len(text)} ".encode() + text.encode("utf-8", "surrogatepass"))
    path = cache_folder() / "vocabularies" / f"{total.hexdigest()[:16]}.json"
    with suppress(OSError, ValueError, KeyError, TypeError):
        kept = json.loads(path.read_text(encoding="utf-8"))
        if hashlib.sha256(kept["tokenizer"].encode()).hexdigest() == kept["sha256"]:
            return str(kept["tokenizer"])
    tokenizer = learn(texts, size, lowercase=lowercase)
    digest = hashlib.sha256(tokenizer.encode()).hexdigest()
    with suppress(OSError, StorageError):  # it is learnt again where it cannot be kept
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps({"sha256": digest, "tokenizer": tokenizer}))
    return tokenizer
