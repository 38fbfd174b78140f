"""Encoded samples (images, sounds) and labels in columns of tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ktbench.data.columns import as_classes, choose, holds_bytes, is_text
from ktbench.data.encoded import Encoded
from ktbench.data.file_kinds import FileKind
from ktbench.data.sources import file_identity, one_line_of, refuse_untaught, shown, some
from ktbench.data.tables import Table, Tables, hub_tables, parquet_tables
from ktbench.records import DataSpec, KtbenchError
from ktbench.system.files import MOST_RECORD, UnsuitableFileError, check_regular
from ktbench.tasks._contract import Labels


def parquet(spec: DataSpec, base: Path, kind: FileKind, column: str | None) -> Encoded:
    """Open a folder of files named by split, or one file; `column` may name that of the samples."""
    return _encoded(spec, parquet_tables(spec, base), kind, column)


def hub(spec: DataSpec, base: Path, kind: FileKind, column: str | None) -> Encoded:
    """Open a classification data set of the Hugging Face hub; offline, from its cache."""
    return _encoded(spec, hub_tables(spec, base), kind, column)


def _encoded(spec: DataSpec, opened: Tables, kind: FileKind, given: str | None) -> Encoded:
    name, tables, features = opened.name, opened.by_split, opened.features
    train = tables["train"]
    types = {column: type_ for column, (type_, _) in features.items()}
    sample, label = choose(spec, name, train.schema, types, train.column, kind, given)
    for split, table in tables.items():
        _refuse_other_columns(f"{name}: the {split} split", table, sample, label, kind)
    names = features.get(label, ("", None))[1]
    columns = {split: table.column(label) for split, table in tables.items()}
    labels, classes, unlabelled = as_classes(f"{name}, column {label!r}", columns, names)
    refuse_untaught(name, classes, labels, kind.noun)

    def row_name(split: str, row: int) -> str:
        return f"{name}, {split} row {row}"

    def read(split: str, rows: Labels) -> Callable[[int], bytes]:
        cells = dict(zip(rows.tolist(), tables[split].cells(sample, rows), strict=True))

        def one(row: int) -> bytes:
            where, base = row_name(split, row), tables[split].base
            return _bytes_of(cells[row].as_py(), where, sample, base, kind)

        return one

    def identity(split: str, rows: Labels) -> Iterator[str]:
        table = tables[split]
        files = _files_named(table, sample, rows)
        named = (file_identity(Path(table.base, file), table.base) for file in files)
        whole = f"{table.identity} {sample}"
        return (f"{whole} {row} {next(named, '')}" for row in rows.tolist())

    about = f"{kind.noun}s in column {sample!r}, labels in column {label!r}"
    notes = (*opened.notes, *unlabelled)
    return Encoded(name, classes, labels, read, row_name, identity, None, notes, about)


def _refuse_other_columns(
    where: str, table: Table, sample: str, label: str, kind: FileKind
) -> None:
    columns = table.schema.names
    for column in (sample, label):
        if column not in columns:
            raise KtbenchError(f"data: {where} has no column {column!r}, only {some(columns, 20)}")
    type_ = table.schema.field(sample).type
    if not holds_bytes(type_) and not is_text(type_):
        raise KtbenchError(
            f"data: {where}: column {sample!r} ({shown(str(type_))}) holds no {kind.noun}s"
        )


def _files_named(table: Table, column: str, rows: Labels) -> list[str]:
    """Return the file that each row names, or none where the first row holds bytes itself."""
    values = (cell.as_py() for cell in table.cells(column, rows[:1]))
    first = next(values, None)
    if not isinstance(first, str) and not (isinstance(first, dict) and first.get("path")):
        return []
    if isinstance(first, dict) and isinstance(first.get("bytes"), bytes):
        return []
    cells = (cell.as_py() for cell in table.cells(column, rows))
    return [str(cell.get("path") if isinstance(cell, dict) else cell) for cell in cells]


def _bytes_of(value: Any, where: str, column: str, base: Path, kind: FileKind) -> bytes:
    """Return the bytes of a cell: its own, or those of the file that it names."""
    path = value
    if isinstance(value, dict):
        path = value.get("path")
        value = value.get("bytes")
    if isinstance(value, bytes):
        return value
    if not isinstance(path, str) or not path:
        raise KtbenchError(f"data: {where}: no {kind.noun} bytes in {column!r}")
    try:
        check_regular(Path(base, path), MOST_RECORD)
        return Path(base, path).read_bytes()
    except UnsuitableFileError as error:
        raise KtbenchError(f"data: {where}: {shown(path)} {error.what}") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or one_line_of(error)
        raise KtbenchError(f"data: {where}: cannot read {shown(path)}: {reason}") from error
