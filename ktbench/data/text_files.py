"""Tables in text files (CSV, TSV, JSON lines), read as people see them in an editor."""

from __future__ import annotations

import codecs
import csv
import io
import json
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

from ktbench.data.columns import LABEL_NAMES, plain_name
from ktbench.data.sources import counted, one_line_of, shown, some
from ktbench.records import KtbenchError
from ktbench.system.files import MOST_WEIGHTS, check_regular

JSON_LINES = (".jsonl", ".ndjson", ".json")
"""Endings of files that hold a JSON object per line, or one array of them."""

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # begins as the mark of UTF-16 does
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
"""Byte-order marks and their encodings; a file without one must be UTF-8."""
_DELIMITERS = (",", ";", "\t")
_LITERAL = "quotes are read as characters of the texts, as they do not enclose fields throughout"


def read_text_table(file: Path, as_text: Collection[str] = ()) -> tuple[Any, list[str]]:
    """Return a file's Arrow table and remarks on how it was read.

    Columns named in `as_text` are text whatever they hold; other types are inferred from all rows.
    A column of mixed types is an error where its name is in `as_text` or a label's.
    Raises KtbenchError that names the file and, where one is to blame, the line.
    """
    text = _decoded(file)
    if file.suffix.lower() in JSON_LINES:
        return _objects(file, text, as_text)
    return _delimited(file, text, as_text)


def _decoded(file: Path) -> str:
    try:
        check_regular(file, MOST_WEIGHTS)
        content = file.read_bytes()
    except OSError as error:
        raise _unreadable(file, one_line_of(error)) from error
    encoding = "utf-8"
    for mark, name in _MARKS:
        if content.startswith(mark):
            content, encoding = content[len(mark) :], name
            break
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise _unreadable(
            file, f"line {line} is not {encoding.upper()} text: save the file as UTF-8"
        ) from error
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise _unreadable(file, f"line {line} holds NUL characters: save the file as UTF-8 text")
    return text


def _unreadable(file: Path, reason: str) -> KtbenchError:
    return KtbenchError(f"data: cannot read {shown(str(file))}: {reason}")


# ---------------------------------------------------------------- CSV and TSV


def _delimited(file: Path, text: str, as_text: Collection[str]) -> tuple[Any, list[str]]:
    import pyarrow
    import pyarrow.csv

    delimiter = _delimiter(file, text)
    quoted = _quotes_enclose(file, text, delimiter)
    content = text.encode()
    try:
        table = pyarrow.csv.read_csv(
            io.BytesIO(content),
            read_options=pyarrow.csv.ReadOptions(block_size=max(len(content) + 1, 1 << 20)),
            parse_options=pyarrow.csv.ParseOptions(
                delimiter=delimiter, quote_char='"' if quoted else False, newlines_in_values=True
            ),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types=dict.fromkeys(as_text, pyarrow.string())
            ),
        )
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        raise _unreadable(file, one_line_of(error)) from error
    names = table.column_names
    if double := sorted({name for name in names if names.count(name) > 1}):
        raise _unreadable(file, f"it has columns of the same name ({some(double)}): rename one")
    return table, [] if quoted else [f"{file.name}: {_LITERAL}"]


def _delimiter(file: Path, text: str) -> str:
    """Return a tab for TSV; else the first of comma, semicolon and tab that the header has."""
    if file.suffix.lower() == ".tsv":
        return "\t"
    header = text.lstrip("\r\n").splitlines()[:1] or [""]
    return next((d for d in _DELIMITERS if d in header[0]), ",")


def _quotes_enclose(file: Path, text: str, delimiter: str) -> bool:
    """Return True where double quotes enclose fields, False where they are plain characters.

    They enclose fields in a CSV file. Many TSV files hold quotes as they stand: so do those whose
    lines all have the header's width when read so, and not the same rows when read otherwise.
    Raises KtbenchError for rows of another width than the header's.
    """
    count, problem = _rows(text, delimiter, quoting=csv.QUOTE_MINIMAL)
    if delimiter == "\t" and '"' in text:
        literal, irregular = _rows(text, delimiter, quoting=csv.QUOTE_NONE)
        if irregular is None and (problem is not None or literal != count):
            return False
    if problem is not None:
        raise _unreadable(file, problem)
    return True


def _rows(text: str, delimiter: str, *, quoting: Any) -> tuple[int, str | None]:
    """Return the number of rows, and what is wrong with the first that is not like the header."""
    before = csv.field_size_limit(sys.maxsize)
    rows = csv.reader(
        io.StringIO(text, newline=""), delimiter=delimiter, quoting=quoting, strict=True
    )
    count = width = 0
    try:
        for row in rows:
            width = width or len(row)
            if row and len(row) != width:
                fields = counted(len(row), "field")
                return count, (
                    f"line {rows.line_num} has {fields} and the header {width}: put double quotes "
                    "around a text that holds the delimiter"
                )
            count += bool(row)
    except csv.Error as error:
        return count, (
            f"line {rows.line_num}: {one_line_of(error)}: put double quotes around the whole text, "
            "and write each quote in it twice"
        )
    finally:
        csv.field_size_limit(before)
    if count < 2:
        return count, "it has no rows below a first line that names the columns"
    return count, None


# ---------------------------------------------------------------- JSON lines


def _objects(file: Path, text: str, as_text: Collection[str]) -> tuple[Any, list[str]]:
    import pyarrow

    rows = _array(file, text) if text.lstrip()[:1] == "[" else _lines(file, text)
    if not rows:
        raise _unreadable(file, "it holds no rows")
    columns, mixed = {}, []
    for name in dict.fromkeys(name for _, row in rows for name in row):
        try:
            columns[name] = _column(file, name, rows)
        except KtbenchError:
            if name in as_text or plain_name(name) in {*as_text, *LABEL_NAMES}:
                raise
            mixed.append(name)
    told = f"{file.name}: columns of mixed types that are not read: {some(mixed)}"
    return pyarrow.table(columns), [told] if mixed else []


def _lines(file: Path, text: str) -> list[tuple[str, dict[str, Any]]]:
    """Return the name and the object of each line that is not blank."""
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            rows.append((f"line {number}", _object(file, f"line {number}", line)))
    return rows


def _array(file: Path, text: str) -> list[tuple[str, dict[str, Any]]]:
    rows = _parsed(file, "the array", text)
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise _unreadable(file, f"row {number} of its array is no JSON object")
    return [(f"row {number}", row) for number, row in enumerate(rows)]


def _object(file: Path, where: str, text: str) -> dict[str, Any]:
    value = _parsed(file, where, text)
    if not isinstance(value, dict):
        raise _unreadable(file, f'{where} is no JSON object such as {{"text": "...", "label": 0}}')
    return value


def _parsed(file: Path, where: str, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = where if error.lineno == 1 else f"line {error.lineno}"
        reason = f"{place} is no JSON: {error.msg} at its letter {error.colno}"
        raise _unreadable(file, reason) from error
    except (ValueError, RecursionError) as error:
        raise _unreadable(file, f"{where} is no JSON: {one_line_of(error)}") from error


def _column(file: Path, name: str, rows: list[tuple[str, dict[str, Any]]]) -> Any:
    import pyarrow

    values = [row.get(name) for _, row in rows]
    kinds: dict[str, str] = {}
    for (where, _), value in zip(rows, values, strict=True):
        if value is not None:
            kinds.setdefault(_KINDS.get(type(value), "an object"), where)
    if len(kinds) > 1:
        told = [f"{kind} in {where}" for kind, where in kinds.items()]
        raise _unreadable(file, f"column {name!r} holds {some(told)}: write its values alike")
    try:
        return pyarrow.array(values)
    except (pyarrow.ArrowException, ValueError, OverflowError, TypeError) as error:
        raise _unreadable(file, f"column {name!r}: {one_line_of(error)}") from error


_KINDS: dict[type, str] = {
    str: "text",
    int: "a number",
    float: "a number",
    bool: "true or false",
    list: "a list",
}
