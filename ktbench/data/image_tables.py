"""Images and labels in columns of tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ktbench.data.columns import as_classes, choose, holds_bytes, is_text, pictures_among
from ktbench.data.pixels import Pixels, decode, read_all
from ktbench.data.sources import one_line_of, refuse_untaught, resolve, shown, some
from ktbench.data.split_names import has_tables
from ktbench.data.tables import Table, Tables, hub_tables, parquet_tables
from ktbench.records import DataSpec, KtbenchError
from ktbench.tasks._contract import Labels, Source


def parquet(spec: DataSpec, base: Path) -> Source:
    """Open images in a folder of files named by split, or in one file."""
    return _of_images(spec, parquet_tables(spec, base))


def hub(spec: DataSpec, base: Path) -> Source:
    """Open an image classification data set of the Hugging Face hub; offline, from its cache."""
    return _of_images(spec, hub_tables(spec, base))


def holds_images(spec: DataSpec, base: Path) -> bool | None:
    """Return True for tables of pictures, False for other tables, None where there are none."""
    if not has_tables(resolve(spec, base)):
        return None
    opened = parquet_tables(spec, base)
    train = opened.by_split["train"]
    kinds = {column: kind for column, (kind, _) in opened.features.items()}
    return bool(pictures_among(list(train.schema), kinds, train.column))


def _of_images(spec: DataSpec, opened: Tables) -> Source:
    name, tables, features = opened.name, opened.by_split, opened.features
    train = tables["train"]
    kinds = {column: kind for column, (kind, _) in features.items()}
    image, label = choose(spec, name, train.schema, kinds, train.column)
    for split, table in tables.items():
        _refuse_other_columns(f"{name}: the {split} split", table, image, label)
    names = features.get(label, ("", None))[1]
    columns = {split: table.column(label) for split, table in tables.items()}
    labels, classes, unlabelled = as_classes(f"{name}, column {label!r}", columns, names)
    refuse_untaught(name, classes, labels, "image")

    def row_name(split: str, row: int) -> str:
        return f"{name}, {split} row {row}"

    def read(split: str, rows: Labels) -> Pixels:
        cells = dict(zip(rows.tolist(), tables[split].cells(image, rows), strict=True))

        def one(row: int) -> Pixels:
            where = row_name(split, row)
            data = _encoded(cells[row].as_py(), where, image, tables[split].base)
            return decode(data, where, spec.image_size)

        return read_all(one, rows, lambda row: row_name(split, row))

    about = f"images in column {image!r}, labels in column {label!r}"
    return Source(name, classes, labels, read, row_name, (*opened.notes, *unlabelled), about)


def _refuse_other_columns(where: str, table: Table, image: str, label: str) -> None:
    columns = table.schema.names
    for column in (image, label):
        if column not in columns:
            raise KtbenchError(f"data: {where} has no column {column!r}, only {some(columns, 20)}")
    kind = table.schema.field(image).type
    if not holds_bytes(kind) and not is_text(kind):
        raise KtbenchError(f"data: {where}: column {image!r} ({shown(str(kind))}) holds no images")


def _encoded(value: Any, where: str, image: str, base: Path) -> bytes:
    """Return the bytes of a cell: its own, or those of the file that it names."""
    path = value
    if isinstance(value, dict):
        path = value.get("path")
        value = value.get("bytes")
    if isinstance(value, bytes):
        return value
    if not isinstance(path, str) or not path:
        raise KtbenchError(f"data: {where}: no image bytes in {image!r}")
    try:
        return Path(base, path).read_bytes()
    except (OSError, ValueError) as error:
        raise KtbenchError(
            f"data: {where}: cannot read {shown(path)}: {one_line_of(error)}"
        ) from error
