"""Columns of a table of texts: which hold the texts and the labels, where that is clear."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from typing import Any

from ktbench.data.columns import (
    LABEL_NAMES,
    NEVER_LABELS,
    is_text,
    label_column,
    plain_name,
    repeats,
)
from ktbench.data.sources import shown, some
from ktbench.data.tables import Tables
from ktbench.records import DataSpec, KtbenchError

PAIRS = (
    ("text", "text_pair"),
    ("sentence1", "sentence2"),
    ("sentence_1", "sentence_2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("text1", "text2"),
    ("text_a", "text_b"),
)
"""Names of columns that belong together."""
SINGLES = (
    *("text", "texts", "sentence", "sentences", "question", "review", "review_text", "content"),
    *("comment", "comment_text", "tweet", "utterance", "body", "message", "document", "article"),
    *("headline", "description", "query"),
)
"""Names of columns that hold texts by themselves."""
USUAL = frozenset({*SINGLES, *(name for pair in PAIRS for name in pair)})


@dataclass(frozen=True)
class TextColumns:
    """Names of a table's columns, and of those that may hold texts and are not read."""

    texts: tuple[str, ...]
    label: str
    unread: tuple[str, ...]


def choose_texts(
    spec: DataSpec, opened: Tables, *, text: str | None, pair: str | None
) -> TextColumns:
    """Return the columns that hold texts and labels, from the training split.

    A name that is given is taken, and with `text` alone there is no pair. Raises KtbenchError that
    names the candidates where several may be meant, or a missing column.
    """
    name, train = opened.name, opened.by_split["train"]
    schema = train.schema
    for given in (text, pair, spec.label_column):
        if given is not None and given not in schema.names:
            raise KtbenchError(f"data: {name} has no column {given!r}, only {_listed(schema)}")
    double = sorted({n for n in schema.names if schema.names.count(n) > 1})
    if double:
        raise KtbenchError(f"data: {name} has columns of the same name: {some(double)}: rename one")
    if pair is not None and text is None:
        raise KtbenchError(
            f"data: text_pair_column {pair!r} needs text_column beside it in data.task"
        )
    texts: tuple[str, ...]
    if text is not None:
        texts = (text,) if pair is None else (text, pair)
    else:
        texts = _without_doubt(name, schema, train.column, spec.label_column)
    if len({*texts, spec.label_column}) <= len(texts):
        raise KtbenchError(
            f"data: {name}: text_column, text_pair_column and label_column must be different "
            "columns"
        )
    kinds = {column: kind for column, (kind, _) in opened.features.items()}
    label = spec.label_column or label_column(name, schema, kinds, train.column, texts)
    candidates = (_candidates(table.schema, label) for table in opened.by_split.values())
    unread = dict.fromkeys(c for c in chain.from_iterable(candidates) if c not in texts)
    return TextColumns(texts, label, tuple(unread))


def holds_text(kind: Any) -> bool:
    """Return True for an Arrow type of text, or of text stored once per distinct value."""
    import pyarrow.types as types

    return is_text(kind.value_type if types.is_dictionary(kind) else kind)


def _candidates(schema: Any, label: str | None) -> list[str]:
    """List the columns of text that may be a sample's, by their names."""
    never = NEVER_LABELS | frozenset(LABEL_NAMES)
    return [
        field.name
        for field in schema
        if holds_text(field.type) and field.name != label and plain_name(field.name) not in never
    ]


def _without_doubt(
    name: str, schema: Any, column: Callable[[str], Any], label: str | None
) -> tuple[str, ...]:
    candidates = _candidates(schema, label)
    usual = {plain_name(c): c for c in candidates if plain_name(c) in USUAL}
    if len(usual) == 1:
        return (next(iter(usual.values())),)
    pairs = [pair for pair in PAIRS if set(pair) == set(usual)]
    if pairs:
        return tuple(usual[each] for each in pairs[0])
    if not usual:
        # Texts differ from row to row, classes repeat.
        likely = candidates if label else [c for c in candidates if not repeats(column(c))]
        if len(likely) == 1:
            return (likely[0],)
    possible = list(usual.values()) or candidates
    if not possible:
        raise KtbenchError(
            f"data: {name} has no column of texts among {_listed(schema)}: the first line of a "
            "text file names the columns; if one of these holds texts, set text_column in data.task"
        )
    hint = "" if usual else " (are these names? the first line of a text file must hold them)"
    raise KtbenchError(
        f"data: {name}: several columns may be the texts ({some(possible)}){hint}: set "
        "text_column, and text_pair_column where a sample is two texts, in data.task"
    )


def _listed(schema: Any) -> str:
    return some([each if each.strip() else repr(each) for each in schema.names], 20)


def refuse_other_columns(where: str, schema: Any, chosen: TextColumns) -> None:
    """Raise KtbenchError for a split without the training split's columns of text and labels."""
    for column in (*chosen.texts, chosen.label):
        if column not in schema.names:
            raise KtbenchError(
                f"data: {where} has no column {column!r}, only {_listed(schema)}: name its columns "
                "as in the training split, or move its file away"
            )
    for column in chosen.texts:
        kind = schema.field(column).type
        if not holds_text(kind):
            raise KtbenchError(
                f"data: {where}: column {column!r} holds no text but {shown(str(kind))}: set "
                "text_column in data.task, or write it as text"
            )
