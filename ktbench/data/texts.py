"""Texts and labels in columns of tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ktbench.data.columns import as_classes, is_text, label_column
from ktbench.data.sources import refuse_untaught, some
from ktbench.data.tables import Table, table_source
from ktbench.data.word_pieces import Text
from ktbench.records import DataSpec, KtbenchError
from ktbench.tasks._contract import Labels

_TEXTS = ("text", "sentence", "sentence1", "question", "review", "content")
_PAIRS = ("text_pair", "sentence2")


@dataclass(frozen=True)
class TextTable:
    """Labels per split, and a reader of texts, or pairs of them, by split and rows."""

    name: str
    classes: tuple[str, ...]
    labels: dict[str, Labels]
    read: Callable[[str, Labels], list[Text]]
    row_name: Callable[[str, int], str]
    notes: tuple[str, ...]
    about: str


def texts(spec: DataSpec, base: Path, *, text: str | None, pair: str | None) -> TextTable:
    """Open a table's texts; `text` and `pair` name their columns where that is not clear.

    Raises KtbenchError for columns that are not there, or hold no text.
    """
    opened = table_source(spec, base)
    name, tables, train = opened.name, opened.by_split, opened.by_split["train"]
    first = text or _usual(name, train.schema.names, _TEXTS)
    second = pair or next((c for c in _PAIRS if c in train.schema.names), None)
    columns = [first] if second is None else [first, second]
    kinds = {column: kind for column, (kind, _) in opened.features.items()}
    label = spec.label_column or label_column(name, train.schema, kinds, train.column, columns)
    for split, table in tables.items():
        _refuse_other_columns(f"{name}: the {split} split", table.schema, columns, label)
    names = opened.features.get(label, ("", None))[1]
    values = {split: table.column(label) for split, table in tables.items()}
    labels, classes, unlabelled = as_classes(f"{name}, column {label!r}", values, names)
    refuse_untaught(name, classes, labels, "text")

    def row_name(split: str, row: int) -> str:
        return f"{name}, {split} row {row}"

    def read(split: str, rows: Labels) -> list[Text]:
        where = f"{name}, {split}"
        parts = [_texts_of(tables[split], column, rows, where) for column in columns]
        return parts[0] if len(parts) == 1 else list(zip(*parts, strict=True))

    shown = " and ".join(repr(column) for column in columns)
    about = f"texts in column {shown}, labels in column {label!r}"
    return TextTable(name, classes, labels, read, row_name, (*opened.notes, *unlabelled), about)


def _usual(name: str, columns: Sequence[str], usual: Sequence[str]) -> str:
    """Return the column that has a usual name; KtbenchError where none has."""
    for column in usual:
        if column in columns:
            return column
    raise KtbenchError(
        f"data: {name} has no column named {some(list(usual), 20)}, only "
        f"{some(list(columns), 20)}: set text_column in data.task"
    )


def _refuse_other_columns(where: str, schema: Any, columns: Sequence[str], label: str) -> None:
    for column in (*columns, label):
        if column not in schema.names:
            raise KtbenchError(
                f"data: {where} has no column {column!r}, only {some(schema.names, 20)}"
            )
    for column in columns:
        if not is_text(schema.field(column).type):
            raise KtbenchError(f"data: {where}: column {column!r} holds no text")


def _texts_of(table: Table, column: str, rows: Labels, where: str) -> list[Any]:
    values = [cell.as_py() for cell in table.cells(column, rows)]
    for row, value in zip(rows.tolist(), values, strict=True):
        if not isinstance(value, str) or not value.strip():
            raise KtbenchError(
                f"data: {where} row {row}: no text in column {column!r}: write one, or drop it"
            )
    return values
