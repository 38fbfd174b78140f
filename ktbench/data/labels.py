"""Turn label columns into class numbers, one per distinct value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ktbench.data.columns import may_be_label
from ktbench.data.image_source import Labels, shown, some
from ktbench.records import KtbenchError

Value = int | str
_UNLABELLED = -1
"""Class number that the hub writes for images without a label."""


def as_classes(
    where: str, columns: Mapping[str, Any], names: list[str] | None
) -> tuple[dict[str, Labels], tuple[str, ...], list[str]]:
    """Return class numbers by split, the classes' names, and notes.

    Classes are the distinct values in ascending order, or all of `names`, which name the values 0,
    1, …. A later split without any label is left out with a note. Raises KtbenchError for values
    that are no labels.
    """
    coded: dict[str, tuple[Labels, list[Value]]] = {}
    notes = []
    for split, column in columns.items():
        indices, values = _distinct(f"{where}, {split}", column)
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


# ---------------------------------------------------------------- one column


def _distinct(where: str, column: Any) -> tuple[Labels, list[Value | None]]:
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
        return _from_lists(where, column)
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


def _from_lists(where: str, column: Any) -> tuple[Labels, list[Value | None]]:
    """Read labels that are one-hot lists, or lists of one member."""
    rows = column.to_pylist()
    if any(row is None for row in rows):
        raise KtbenchError(f"data: {where}: rows without a label: remove them or label them")
    lengths = {len(row) for row in rows}
    if len(lengths) > 1 or 0 in lengths:
        raise KtbenchError(
            f"data: {where}: labels are lists of {some(sorted(map(str, lengths)))} members: one "
            "label per image is needed"
        )
    if lengths == {1}:
        import pyarrow

        return _distinct(where, pyarrow.array([row[0] for row in rows]))
    table = np.array(rows, dtype=np.float64).reshape(len(rows), -1)
    hot = (table == 1).sum(axis=1) == 1
    hot &= ((table == 0) | (table == 1)).all(axis=1)
    if not hot.all():
        raise KtbenchError(
            f"data: {where}: row {int(hot.argmin())} is not one class (a single 1 among zeros): "
            "one label per image is needed"
        )
    return table.argmax(axis=1).astype(np.int64), list(range(table.shape[1]))
