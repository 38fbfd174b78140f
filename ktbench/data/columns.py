"""Columns of a table: which hold samples and labels, where that is clear, and labels as classes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ktbench.data.file_kinds import FileKind
from ktbench.data.sources import shown, some
from ktbench.records import DataSpec, KtbenchError
from ktbench.tasks._contract import Labels

LABEL_NAMES = (
    "label",
    "labels",
    "fine_label",
    "class",
    "classes",
    "target",
    "targets",
    "category",
    "class_label",
    "class_name",
    "class_id",
    "category_id",
    "category_name",
    "label_id",
    "label_name",
)
"""Names of label columns; of several with equal contents the first is read."""
NEVER_LABELS = frozenset(
    {"id", "index", "idx", "row", "width", "height", "size", "channels", "split", "path", "file"}
    | {"filename", "file_name", "url", "uri", "name", "md5", "sha1", "sha256", "hash"}
)
"""Names of columns that hold neither labels nor texts."""
_LOOKED_AT = 100
"""Values of a text column that are checked for endings of files."""

Column = Any
"""An Arrow chunked array."""


def choose(
    spec: DataSpec,
    name: str,
    schema: Any,
    features: Mapping[str, str],
    column: Callable[[str], Column],
    kind: FileKind,
    given: str | None,
) -> tuple[str, str]:
    """Return the columns that hold encoded samples of a kind and labels, from the training split.

    `given` is the samples' column where the matrix names it. `features` has the hub's own types
    (`Image`, `Audio`, `ClassLabel`) of the columns that it knows.
    Raises KtbenchError that names the candidates where several may be meant, or a missing column.
    """
    for column_name in (given, spec.label_column):
        if column_name is not None and column_name not in schema.names:
            raise KtbenchError(
                f"data: {name} has no column {column_name!r}, only {some(schema.names, 20)}"
            )
    repeated = sorted({n for n in schema.names if schema.names.count(n) > 1})
    if repeated:
        raise KtbenchError(
            f"data: {name} has columns of the same name: {some(repeated)}: rename one"
        )
    sample = given or _sample(name, schema, features, column, spec.label_column, kind)
    if sample == spec.label_column:
        raise KtbenchError(f"data: {name}: {sample!r} cannot be both {kind.noun} and label column")
    _refuse_no_samples(name, sample, schema, column, kind)
    return sample, spec.label_column or label_column(name, schema, features, column, (sample,))


# ---------------------------------------------------------------- encoded samples


def holds_bytes(kind: Any) -> bool:
    """Return True for an Arrow type of encoded samples: bytes, or the hub's `{bytes, path}`."""
    import pyarrow.types as types

    if types.is_struct(kind):
        return any(f.name == "bytes" and holds_bytes(f.type) for f in kind)
    return bool(types.is_binary(kind) or types.is_large_binary(kind) or _is_view(kind))


def _is_view(kind: Any) -> bool:
    return str(kind) == "binary_view"


def is_text(kind: Any) -> bool:
    """Return True for an Arrow type of text."""
    import pyarrow.types as types

    return bool(types.is_string(kind) or types.is_large_string(kind)) or str(kind) == "string_view"


def _names_files(type_: Any, values: Callable[[], Column], kind: FileKind) -> bool:
    """Return True for a text column that names files of a kind."""
    if not is_text(type_):
        return False
    texts = [text for text in values().slice(0, _LOOKED_AT).to_pylist() if text]
    return bool(texts) and all(PurePath(t).suffix.lower() in kind.endings for t in texts)


def _sample(
    name: str,
    schema: Any,
    features: Mapping[str, str],
    column: Callable[[str], Column],
    label: str | None,
    kind: FileKind,
) -> str:
    fields = [field for field in schema if field.name != label]
    held = files_among(fields, features, column, kind)
    usual = [candidate for candidate in held if plain_name(candidate) in kind.columns]
    for candidates in (usual, held):
        if len(candidates) == 1:
            return str(candidates[0])
    if not held:
        raise KtbenchError(
            f"data: {name} has no {kind.noun} column among {some(schema.names, 20)}: "
            f"{kind.noun}s are bytes, the hub's {{bytes, path}}, or paths of {kind.file} files"
        )
    raise KtbenchError(
        f"data: {name}: several columns may be the {kind.noun}s ({some(usual or held)}): set "
        f"{kind.setting}"
    )


def files_among(
    fields: Sequence[Any],
    features: Mapping[str, str],
    column: Callable[[str], Column],
    kind: FileKind,
) -> list[str]:
    """List the columns that hold such files, or where none does those that name them."""
    held = [f.name for f in fields if features.get(f.name) == kind.feature or holds_bytes(f.type)]
    return held or [f.name for f in fields if _names_files(f.type, partial(column, f.name), kind)]


def _refuse_no_samples(
    name: str, sample: str, schema: Any, column: Callable[[str], Column], kind: FileKind
) -> None:
    type_ = schema.field(sample).type
    if not holds_bytes(type_) and not _names_files(type_, lambda: column(sample), kind):
        raise KtbenchError(
            f"data: {name}: column {sample!r} ({shown(str(type_))}) holds no {kind.noun}s: neither "
            f"bytes nor paths of {kind.file} files"
        )


# ---------------------------------------------------------------- labels


def may_be_label(kind: Any) -> bool:
    """Return True for Arrow types of labels: numbers, text, booleans, or lists of numbers."""
    import pyarrow.types as types

    if types.is_dictionary(kind):
        return may_be_label(kind.value_type)
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return _is_number(kind.value_type)
    return _is_number(kind) or is_text(kind) or bool(types.is_decimal(kind))


def _is_number(kind: Any) -> bool:
    import pyarrow.types as types

    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind))


def label_column(
    name: str,
    schema: Any,
    features: Mapping[str, str],
    column: Callable[[str], Column],
    samples: Sequence[str],
) -> str:
    """Return the column that holds the labels, beside those of the samples.

    Raises KtbenchError that names the candidates where several may be meant, or none.
    """
    possible = [f.name for f in schema if f.name not in samples and may_be_label(f.type)]
    by_name = {plain_name(candidate): candidate for candidate in reversed(possible)}
    usual = [by_name[word] for word in LABEL_NAMES if word in by_name]
    declared = [candidate for candidate in possible if features.get(candidate) == "ClassLabel"]
    for candidates in (usual, declared):
        if candidates and _are_equivalent([column(candidate) for candidate in candidates]):
            return str(candidates[0])
        if candidates:
            raise KtbenchError(
                f"data: {name}: several columns may be the labels ({some(candidates)}): set "
                "data.label_column"
            )
    likely = [c for c in possible if plain_name(c) not in NEVER_LABELS and repeats(column(c))]
    if len(likely) == 1:
        return str(likely[0])
    if not possible:
        raise KtbenchError(f"data: {name} has no label column among {some(schema.names, 20)}")
    raise KtbenchError(
        f"data: {name}: it is not clear which column holds the labels "
        f"({some(likely or possible)}): set data.label_column"
    )


def plain_name(name: str) -> str:
    """Return a column's name in lower case, its words joined by `_`."""
    return re.sub(r"[\W_]+", "_", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name)).strip("_").casefold()


def _are_equivalent(columns: Sequence[Column]) -> bool:
    """Return True where all columns partition the rows in the same way."""
    import pyarrow
    import pyarrow.types as types

    if len(columns) == 1:
        return True
    if any(types.is_nested(column.type) for column in columns):
        return False
    table = pyarrow.table({str(place): column for place, column in enumerate(columns)})
    combinations = table.group_by(table.column_names).aggregate([]).num_rows
    return all(len(column.unique()) == combinations for column in columns)


def repeats(column: Column) -> bool:
    """Return True where values name classes and not rows: two rows each or more, on average."""
    import pyarrow.types as types

    return bool(types.is_nested(column.type)) or 2 * len(column.unique()) <= len(column)


# ---------------------------------------------------------------- labels as classes

Value = int | str
_UNLABELLED = -1
"""Class number that the hub writes for images without a label."""


def as_classes(
    where: str, columns: Mapping[str, Any], names: list[str] | None, noun: str = "image"
) -> tuple[dict[str, Labels], tuple[str, ...], list[str]]:
    """Return class numbers by split, the classes' names, and notes.

    Classes are the distinct values in ascending order, or all of `names`, which name the values 0,
    1, …. A later split without any label is left out with a note. Raises KtbenchError for values
    that are no labels.
    """
    coded: dict[str, tuple[Labels, list[Value]]] = {}
    notes = []
    for split, column in columns.items():
        indices, values = _distinct(f"{where}, {split}", column, noun)
        missing = _is_missing(indices, values, named=names is not None)
        if missing.all() and len(missing) and split != "train":
            notes.append(f"the {split} split is not read: it has no labels")
            continue
        if missing.any():
            raise KtbenchError(
                f"data: {where}: {int(missing.sum()):,} of {len(missing):,} rows of {split} have "
                f"no label (first: row {int(missing.argmax())}): remove them or label them"
            )
        coded[split] = (indices, [value for value in values if value is not None])
    kinds = {type(value): split for split, (_, values) in coded.items() for value in values}
    if len(kinds) > 1:
        raise KtbenchError(
            f"data: {where}: labels are text in {kinds[str]} and numbers in {kinds[int]}: write "
            "them alike"
        )
    distinct = sorted({value for _, values in coded.values() for value in values})
    titles, number = _titles(where, distinct, names)
    labels = {
        split: np.array([number[value] for value in values], dtype=np.int64)[indices]
        for split, (indices, values) in coded.items()
    }
    _refuse_names_of_rows(where, labels)
    return labels, titles, notes


def _titles(
    where: str, distinct: list[Value], names: list[str] | None
) -> tuple[tuple[str, ...], dict[Value, int]]:
    """Return the name of each class, and the number of each value."""
    if names is None or any(isinstance(value, str) for value in distinct):
        return tuple(map(str, distinct)), {value: n for n, value in enumerate(distinct)}
    unnamed = [str(v) for v in distinct if not 0 <= int(v) < len(names)]
    if unnamed:
        raise KtbenchError(
            f"data: {where}: {len(names)} classes have names, and the labels {some(unnamed)} have "
            "none: name them or remove their rows"
        )
    return tuple(names), {number: number for number in range(len(names))}


def _refuse_names_of_rows(where: str, labels: dict[str, Labels]) -> None:
    rows = labels["train"]
    count = len(np.unique(rows))
    if len(rows) > 2 and 2 * count > len(rows):
        raise KtbenchError(
            f"data: {where}: {count:,} different labels in {len(rows):,} training rows: they name "
            "rows, not classes: set data.label_column to another column"
        )


def _distinct(where: str, column: Any, noun: str) -> tuple[Labels, list[Value | None]]:
    """Return each row's index into the list of distinct values, in which None is no label."""
    import pyarrow
    import pyarrow.compute as compute
    import pyarrow.types as types

    kind = column.type
    if types.is_null(kind):
        return np.zeros(len(column), dtype=np.int64), [None]
    if not may_be_label(kind):
        raise KtbenchError(f"data: {where}: a column of {shown(str(kind))} holds no labels")
    column = column.cast(kind.value_type) if types.is_dictionary(kind) else column
    if types.is_nested(column.type):
        return _from_lists(where, column, noun)
    if isinstance(column, pyarrow.ChunkedArray):
        column = column.combine_chunks()
    encoded = compute.dictionary_encode(column, null_encoding="encode")
    if isinstance(encoded, pyarrow.ChunkedArray):
        encoded = encoded.combine_chunks()
    indices = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    values = [_value(where, value) for value in encoded.dictionary.to_pylist()]
    # Values that mean the same (1 and 1.0) are one.
    places = {value: place for place, value in reversed(list(enumerate(values)))}
    return np.array([places[v] for v in values], dtype=np.int64)[indices], values


def _value(where: str, value: Any) -> Value | None:
    """Convert a label to text or a whole number; None where it is empty."""
    if value is None or value != value or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value)
    if abs(value) == float("inf") or int(value) != value:
        raise KtbenchError(
            f"data: {where}: the label {value} is no whole number: classes are whole numbers or "
            "text"
        )
    return int(value)


def _is_missing(indices: Labels, values: list[Value | None], *, named: bool) -> NDArray[np.bool_]:
    nothing = [value is None or (named and value == _UNLABELLED) for value in values]
    return np.array(nothing, dtype=np.bool_)[indices] if nothing else np.zeros(0, np.bool_)


def _from_lists(where: str, column: Any, noun: str) -> tuple[Labels, list[Value | None]]:
    """Read labels that are one-hot lists, or lists of one member."""
    rows = column.to_pylist()
    if any(row is None for row in rows):
        raise KtbenchError(f"data: {where}: rows without a label: remove them or label them")
    lengths = {len(row) for row in rows}
    if len(lengths) > 1 or 0 in lengths:
        raise KtbenchError(
            f"data: {where}: labels are lists of {some(sorted(map(str, lengths)))} members: one "
            f"label per {noun} is needed"
        )
    if lengths == {1}:
        import pyarrow

        return _distinct(where, pyarrow.array([row[0] for row in rows]), noun)
    table = np.array(rows, dtype=np.float64).reshape(len(rows), -1)
    hot = (table == 1).sum(axis=1) == 1
    hot &= ((table == 0) | (table == 1)).all(axis=1)
    if not hot.all():
        raise KtbenchError(
            f"data: {where}: row {int(hot.argmin())} is not one class (a single 1 among zeros): "
            f"one label per {noun} is needed"
        )
    return table.argmax(axis=1).astype(np.int64), list(range(table.shape[1]))
