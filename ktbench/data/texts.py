"""Texts and labels in columns of tables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ktbench.data.columns import as_classes
from ktbench.data.sources import counted, one_line_of, refuse_untaught, some
from ktbench.data.tables import Table, table_source
from ktbench.data.text_columns import USUAL, choose_texts, refuse_other_columns
from ktbench.data.word_pieces import Text
from ktbench.records import DataSpec, KtbenchError
from ktbench.tasks._contract import Labels


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
    given = {column for column in (text, pair) if column is not None}
    opened = table_source(spec, base, given or USUAL)
    name, tables = opened.name, opened.by_split
    chosen = choose_texts(spec, opened, text=text, pair=pair)
    for split, table in tables.items():
        refuse_other_columns(f"{name}: the {split} split", table.schema, chosen)
    names = opened.features.get(chosen.label, ("", None))[1]
    values = {split: table.column(chosen.label) for split, table in tables.items()}
    where = f"{name}, column {chosen.label!r}"
    labels, classes, unlabelled = as_classes(where, values, names, "text")
    refuse_untaught(name, classes, labels, "text")

    def row_name(split: str, row: int) -> str:
        return f"{name}, {split} row {row}"

    def read(split: str, rows: Labels) -> list[Text]:
        of_split = f"{name}, {split}"
        parts = [_texts_of(tables[split], column, rows, of_split) for column in chosen.texts]
        return parts[0] if len(parts) == 1 else list(zip(*parts, strict=True))

    shown = " and ".join(repr(column) for column in chosen.texts)
    plural = "s" if len(chosen.texts) > 1 else ""
    about = f"texts in column{plural} {shown}, labels in column {chosen.label!r}"
    unread = [f"columns that are not read: {some(list(chosen.unread))}"] if chosen.unread else []
    notes = (*opened.notes, *unlabelled, *unread)
    return TextTable(name, classes, labels, read, row_name, notes, about)


def _texts_of(table: Table, column: str, rows: Labels, where: str) -> list[Any]:
    """Return the texts of some rows; raises KtbenchError that counts those without one."""
    try:
        values = [cell.as_py() for cell in table.cells(column, rows)]
    except UnicodeDecodeError as error:
        raise KtbenchError(
            f"data: {where}: column {column!r} is not UTF-8 ({one_line_of(error)}): write it so"
        ) from error
    blank = [row for row, value in zip(rows.tolist(), values, strict=True) if _is_blank(value)]
    if blank:
        raise KtbenchError(
            f"data: {where}: {counted(len(blank), 'row')} without a text in column {column!r} "
            f"(first: row {blank[0]}): write one, or remove the row"
        )
    return values


def _is_blank(value: Any) -> bool:
    """Return True for no text, and for one of white space and invisible characters alone."""
    return value is None or not any(c.isprintable() and not c.isspace() for c in value)
