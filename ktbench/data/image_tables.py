"""Images and labels in columns: parquet and CSV files, and data sets of the Hugging Face hub."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from ktbench.data.columns import as_classes, choose, holds_bytes, is_text
from ktbench.data.pixels import Pixels, decode, line, read_all
from ktbench.data.sources import refuse_untaught, resolve, shown, some
from ktbench.data.split_names import plain_split, table_files
from ktbench.records import DataSpec, KtbenchError
from ktbench.system import extras
from ktbench.tasks._contract import Labels, Source


class Table(Protocol):
    """Rows of one split, of which columns and cells are read when asked for."""

    @property
    def base(self) -> Path:
        """Folder from which relative paths of picture files start."""

    @property
    def schema(self) -> Any:
        """Arrow schema."""

    def column(self, name: str) -> Any:
        """Read a whole column, an Arrow chunked array."""

    def cells(self, name: str, rows: Labels) -> list[Any]:
        """Read Arrow scalars of some rows, in their order."""


@dataclass(frozen=True)
class InMemory:
    """An Arrow table."""

    table: Any
    base: Path

    @property
    def schema(self) -> Any:
        """Arrow schema."""
        return self.table.schema

    def column(self, name: str) -> Any:
        """Return a whole column."""
        return self.table.column(name)

    def cells(self, name: str, rows: Labels) -> list[Any]:
        """Return Arrow scalars of some rows."""
        column = self.table.column(name)
        return [column[row] for row in rows.tolist()]


@dataclass(frozen=True)
class Parquet:
    """Parquet files, one after the other; only the row groups asked for are read."""

    files: tuple[Path, ...]

    @property
    def base(self) -> Path:
        """Folder of the first file."""
        return self.files[0].parent

    @cached_property
    def _opened(self) -> list[Any]:
        import pyarrow.parquet

        return [_reading(file, pyarrow.parquet.ParquetFile, file) for file in self.files]

    @property
    def schema(self) -> Any:
        """Schema of the first file."""
        return self._opened[0].schema_arrow

    def column(self, name: str) -> Any:
        """Read a whole column; raises KtbenchError where the files do not agree on it."""
        import pyarrow

        parts = []
        for file, opened in zip(self.files, self._opened, strict=True):
            _refuse_without(file, opened.schema_arrow.names, name)
            parts.append(_reading(file, opened.read, columns=[name]))
        try:
            joined = pyarrow.concat_tables(parts, promote_options="permissive")
        except pyarrow.ArrowException as error:
            raise KtbenchError(
                f"data: column {name!r} is not of one type in {some([f.name for f in self.files])} "
                f"({line(error)}): write it alike"
            ) from error
        return joined.column(name)

    def cells(self, name: str, rows: Labels) -> list[Any]:
        """Read Arrow scalars of some rows."""
        scalars: dict[int, Any] = {}
        start = 0
        for file, opened in zip(self.files, self._opened, strict=True):
            _refuse_without(file, opened.schema_arrow.names, name)
            for group in range(opened.num_row_groups):
                end = start + opened.metadata.row_group(group).num_rows
                inside = rows[(rows >= start) & (rows < end)]
                if len(inside):
                    read = _reading(file, opened.read_row_group, group, columns=[name])
                    column = read.column(name)
                    scalars |= {row: column[row - start] for row in inside.tolist()}
                start = end
        return [scalars[row] for row in rows.tolist()]


def _refuse_without(file: Path, columns: Sequence[str], name: str) -> None:
    if name not in columns:
        raise KtbenchError(
            f"data: {shown(str(file))} has no column {name!r}, only {some(list(columns), 20)}"
        )


def _reading(file: Path, read: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Call `read`; raises KtbenchError that names the file where it fails."""
    import pyarrow

    try:
        return read(*arguments, **options)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise KtbenchError(f"data: cannot read {shown(str(file))}: {line(error)}") from error


# ---------------------------------------------------------------- opening tables


def parquet(spec: DataSpec, base: Path) -> Source:
    """Open a folder of files named by split (`train-0.parquet`, `test.csv`), or one file."""
    path = resolve(spec, base)
    files, notes = table_files(path)
    tables: dict[str, Table] = {split: _opened(chosen) for split, chosen in files.items()}
    return _from_tables(spec, str(path), tables, _declared(tables["train"].schema), notes)


def _opened(files: Sequence[Path]) -> Table:
    import pyarrow
    import pyarrow.csv

    if files[0].suffix.lower() == ".parquet":
        return Parquet(tuple(files))
    parts = []
    for file in files:
        options = pyarrow.csv.ParseOptions(delimiter="\t" if file.suffix.lower() == ".tsv" else ",")
        parts.append(_reading(file, pyarrow.csv.read_csv, file, parse_options=options))
    table = _reading(files[0], pyarrow.concat_tables, parts, promote_options="permissive")
    return InMemory(table, files[0].parent)


def hub(spec: DataSpec, base: Path) -> Source:
    """Open an image classification data set of the Hugging Face hub; offline, from its cache."""
    if not spec.path:
        raise KtbenchError("data: source 'hub' needs a path: the data set's name on the hub")
    extras.require("hub", "data: source 'hub'")
    import datasets

    name, _, configuration = spec.path.partition(":")
    datasets.disable_progress_bars()
    try:
        loaded = datasets.load_dataset(name, configuration or None)
    except Exception as error:  # the hub client raises many kinds
        raise KtbenchError(
            f"data: cannot load {spec.path!r} from the hub ({line(error)}): without network, "
            "download it elsewhere and give `source: parquet` with `path: FOLDER`"
        ) from error
    names, notes = _hub_splits(spec.path, list(loaded))
    tables: dict[str, Table] = {
        split: InMemory(loaded[name].with_format("arrow")[:], base) for split, name in names.items()
    }
    of_columns = loaded[names["train"]].features
    features = {k: (type(f).__name__, getattr(f, "names", None)) for k, f in of_columns.items()}
    return _from_tables(spec, spec.path, tables, features, notes)


def _hub_splits(name: str, available: list[str]) -> tuple[dict[str, str], list[str]]:
    """Map splits to the data set's names for them, and note those that are not read."""
    by_split: dict[str, list[str]] = {}
    for each in available:
        by_split.setdefault(plain_split(each) or "", []).append(each)
    if "train" not in by_split and len(available) == 1 and "" in by_split:
        return {"train": available[0]}, []
    if "train" not in by_split:
        raise KtbenchError(f"data: {name!r} has no split 'train', only {some(available)}")
    chosen = {}
    for split, names in by_split.items():
        if split and len(names) > 1 and split not in names:
            raise KtbenchError(
                f"data: {name!r} has the splits {some(names)}, all of them for {split}: which is "
                "meant is not clear; save the one as parquet and give `source: parquet`"
            )
        if split:
            chosen[split] = split if split in names else names[0]
    rest = sorted(set(available) - set(chosen.values()))
    return chosen, [f"splits that are not read: {some(rest)}"] if rest else []


Features = Mapping[str, tuple[str, list[str] | None]]
"""Types that the hub declares for columns, and the names of their classes."""


def _declared(schema: Any) -> Features:
    """Read the features that the hub writes into a parquet file's metadata."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {
            column: (str(about.get("_type")), _listed(about.get("names")))
            for column, about in features.items()
            if isinstance(about, dict)
        }
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}


def _listed(names: Any) -> list[str] | None:
    if isinstance(names, dict):
        return [str(names[key]) for key in sorted(names, key=int)]
    return [str(each) for each in names] if isinstance(names, list) else None


# ---------------------------------------------------------------- a source of images


def _from_tables(
    spec: DataSpec,
    name: str,
    tables: dict[str, Table],
    features: Features,
    notes: Sequence[str],
) -> Source:
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
    return Source(name, classes, labels, read, row_name, (*notes, *unlabelled), about)


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
        raise KtbenchError(f"data: {where}: cannot read {shown(path)}: {line(error)}") from error
