"""Choose the image and label columns of a table, only where the choice is unambiguous."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import PurePath
from typing import Any

from ktbench.data.folders import IMAGE_FILES
from ktbench.data.image_source import shown, some
from ktbench.records import DataSpec, KtbenchError

_IMAGES = frozenset({"image", "images", "img", "imgs", "picture", "photo", "image_bytes"})
_LABELS = (
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
_NEVER_LABELS = frozenset(
    {"id", "index", "idx", "row", "width", "height", "size", "channels", "split", "path", "file"}
    | {"filename", "file_name", "url", "uri", "name", "md5", "sha1", "sha256", "hash"}
)
_LOOKED_AT = 100
"""Values of a text column that are checked for endings of picture files."""

Column = Any
"""An Arrow chunked array."""


def choose(
    spec: DataSpec,
    name: str,
    schema: Any,
    features: Mapping[str, str],
    column: Callable[[str], Column],
) -> tuple[str, str]:
    """Return the columns that hold images and labels, from the training split.

    `features` has the hub's own types (`Image`, `ClassLabel`) of the columns that it knows.
    Raises KtbenchError that names the candidates where several may be meant, or a missing column.
    """
    for column_name in (spec.image_column, spec.label_column):
        if column_name is not None and column_name not in schema.names:
            raise KtbenchError(
                f"data: {name} has no column {column_name!r}, only {some(schema.names, 20)}"
            )
    repeated = sorted({n for n in schema.names if schema.names.count(n) > 1})
    if repeated:
        raise KtbenchError(
            f"data: {name} has columns of the same name: {some(repeated)}: rename one"
        )
    image = spec.image_column or _image(name, schema, features, column, spec.label_column)
    if image == spec.label_column:
        raise KtbenchError(f"data: {name}: {image!r} cannot be both image and label column")
    _refuse_no_images(name, image, schema, column)
    return image, spec.label_column or _label(name, schema, features, column, image)


# ---------------------------------------------------------------- images


def holds_bytes(kind: Any) -> bool:
    """Return True for an Arrow type of encoded pictures: bytes, or the hub's `{bytes, path}`."""
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


def _names_files(kind: Any, values: Callable[[], Column]) -> bool:
    """Return True for a text column that names picture files."""
    if not is_text(kind):
        return False
    texts = [text for text in values().slice(0, _LOOKED_AT).to_pylist() if text]
    return bool(texts) and all(PurePath(t).suffix.lower() in IMAGE_FILES for t in texts)


def _image(
    name: str,
    schema: Any,
    features: Mapping[str, str],
    column: Callable[[str], Column],
    label: str | None,
) -> str:
    fields = [field for field in schema if field.name != label]
    pictures = [f.name for f in fields if features.get(f.name) == "Image" or holds_bytes(f.type)]
    if not pictures:
        pictures = [f.name for f in fields if _names_files(f.type, partial(column, f.name))]
    usual = [candidate for candidate in pictures if _plain(candidate) in _IMAGES]
    for candidates in (usual, pictures):
        if len(candidates) == 1:
            return str(candidates[0])
    if not pictures:
        raise KtbenchError(
            f"data: {name} has no image column among {some(schema.names, 20)}: images are bytes, "
            "the hub's {bytes, path}, or paths of picture files"
        )
    raise KtbenchError(
        f"data: {name}: several columns may be the images ({some(usual or pictures)}): set "
        "data.image_column"
    )


def _refuse_no_images(name: str, image: str, schema: Any, column: Callable[[str], Column]) -> None:
    kind = schema.field(image).type
    if not holds_bytes(kind) and not _names_files(kind, lambda: column(image)):
        raise KtbenchError(
            f"data: {name}: column {image!r} ({shown(str(kind))}) holds no images: neither bytes "
            "nor paths of picture files"
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


def _label(
    name: str,
    schema: Any,
    features: Mapping[str, str],
    column: Callable[[str], Column],
    image: str,
) -> str:
    possible = [f.name for f in schema if f.name != image and may_be_label(f.type)]
    by_name = {_plain(candidate): candidate for candidate in reversed(possible)}
    usual = [by_name[word] for word in _LABELS if word in by_name]
    declared = [candidate for candidate in possible if features.get(candidate) == "ClassLabel"]
    for candidates in (usual, declared):
        if candidates and _are_equivalent([column(candidate) for candidate in candidates]):
            return str(candidates[0])
        if candidates:
            raise KtbenchError(
                f"data: {name}: several columns may be the labels ({some(candidates)}): set "
                "data.label_column"
            )
    likely = [c for c in possible if _plain(c) not in _NEVER_LABELS and _repeats(column(c))]
    if len(likely) == 1:
        return str(likely[0])
    if not possible:
        raise KtbenchError(f"data: {name} has no label column among {some(schema.names, 20)}")
    raise KtbenchError(
        f"data: {name}: it is not clear which column holds the labels "
        f"({some(likely or possible)}): set data.label_column"
    )


def _plain(name: str) -> str:
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


def _repeats(column: Column) -> bool:
    """Return True where values name classes and not rows: two rows each or more, on average."""
    import pyarrow.types as types

    return bool(types.is_nested(column.type)) or 2 * len(column.unique()) <= len(column)
