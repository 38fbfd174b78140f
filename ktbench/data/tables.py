"""Tables of samples: parquet and text files, and data sets of the Hugging Face hub."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from ktbench.data.sources import file_identity, one_line_of, resolve, shown, some
from ktbench.data.split_names import plain_split, table_files
from ktbench.data.text_files import read_text_table
from ktbench.records import DataSpec, KtbenchError
from ktbench.system import extras
from ktbench.tasks._contract import Labels


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

    @property
    def identity(self) -> str:
        """Text that changes when the table's files do."""

    def cells(self, name: str, rows: Labels) -> list[Any]:
        """Read Arrow scalars of some rows, in their order."""


@dataclass(frozen=True)
class InMemory:
    """An Arrow table."""

    table: Any
    base: Path
    identity: str
    """Text that changes when what it was read from does."""

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

    @property
    def identity(self) -> str:
        """Names, sizes and dates of the files."""
        return identity_of(self.files)

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
        parts = []
        for file, opened in zip(self.files, self._opened, strict=True):
            _refuse_without(file, opened.schema_arrow.names, name)
            parts.append(_sound(file, _reading(file, opened.read, columns=[name])))
        return _joined(parts, self.files).column(name)

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
                    column = _sound(file, read).column(name)
                    scalars |= {row: column[row - start] for row in inside.tolist()}
                start = end
        return [scalars[row] for row in rows.tolist()]


def identity_of(files: Sequence[Path]) -> str:
    """Return a text that changes when one of some files is written."""
    return " ".join(file_identity(file, files[0].parent) for file in files)


def _refuse_without(file: Path, columns: Sequence[str], name: str) -> None:
    if name not in columns:
        raise KtbenchError(
            f"data: {shown(str(file))} has no column {name!r}, only {some(list(columns), 20)}"
        )


def _sound(file: Path, table: Any) -> Any:
    """Return a table whose texts are UTF-8; raises KtbenchError for another."""
    _reading(file, table.validate, full=True)
    return table


def _joined(parts: list[Any], files: Sequence[Path]) -> Any:
    """Put tables one after the other; raises KtbenchError where a column has several types."""
    import pyarrow

    try:
        return pyarrow.concat_tables(parts, promote_options="permissive")
    except pyarrow.ArrowException as error:
        raise KtbenchError(
            f"data: a column is not of one type in {some([f.name for f in files])} "
            f"({one_line_of(error)}): write it alike"
        ) from error


def _reading(file: Path, read: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Call `read`; raises KtbenchError that names the file where it fails."""
    import pyarrow

    try:
        return read(*arguments, **options)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise KtbenchError(
            f"data: cannot read {shown(str(file))}: {one_line_of(error)}: write or get it again"
        ) from error


# ---------------------------------------------------------------- opening tables


Features = Mapping[str, tuple[str, list[str] | None]]
"""Types that the hub declares for columns, and the names of their classes."""


@dataclass(frozen=True)
class Tables:
    """The tables of a data set by split, before it is known which columns hold what."""

    name: str
    by_split: dict[str, Table]
    features: Features
    notes: Sequence[str]


def table_source(spec: DataSpec, base: Path, as_text: Collection[str]) -> Tables:
    """Open the tables of a `parquet` or `hub` source; raises KtbenchError for another.

    Columns of `as_text` hold text in files that do not say so (CSV).
    """
    if spec.source not in ("parquet", "hub"):
        raise KtbenchError(
            f"data: source {spec.source!r} holds images: texts are in tables (parquet or hub)"
        )
    if spec.source == "hub":
        return hub_tables(spec, base)
    return parquet_tables(spec, base, as_text)


def parquet_tables(spec: DataSpec, base: Path, as_text: Collection[str] = ()) -> Tables:
    """Open a folder of files named by split (`train-0.parquet`, `test.csv`), or one file."""
    path = resolve(spec, base)
    files, notes = table_files(path)
    tables: dict[str, Table] = {}
    for split, chosen in files.items():
        tables[split], remarks = _opened(chosen, as_text)
        notes += remarks
    return Tables(str(path), tables, _declared(tables["train"].schema), notes)


def _opened(files: Sequence[Path], as_text: Collection[str]) -> tuple[Table, list[str]]:
    """Return the table of some files, and remarks on how they were read."""
    if files[0].suffix.lower() == ".parquet":
        return Parquet(tuple(files)), []
    read = [read_text_table(file, as_text) for file in files]
    table = _joined([table for table, _ in read], files)
    remarks = [line for _, lines in read for line in lines]
    return InMemory(table, files[0].parent, identity_of(files)), remarks


def hub_tables(spec: DataSpec, base: Path) -> Tables:
    """Open a data set of the Hugging Face hub; offline, from its cache."""
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
            f"data: cannot load {spec.path!r} from the hub ({one_line_of(error)}): without "
            "network, download it elsewhere and give `source: parquet` with `path: FOLDER`"
        ) from error
    names, notes = _hub_splits(spec.path, list(loaded))
    tables: dict[str, Table] = {
        split: InMemory(loaded[name].with_format("arrow")[:], base, str(loaded[name]._fingerprint))
        for split, name in names.items()
    }
    of_columns = loaded[names["train"]].features
    features = {k: (type(f).__name__, getattr(f, "names", None)) for k, f in of_columns.items()}
    return Tables(spec.path, tables, features, notes)


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
