"""Damaged tables of texts, each a function of a seed."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.support.texts import sentences

Rows = list[dict[str, Any]]
Draw = np.random.Generator

_TEXTS: list[Any] = [
    *(None, "", "   ", "\u200b", "\n", "\0", "a\0b", '"', '""', 'say "no"', "a,b", "a;b", "a\tb"),
    *("404", "1e9", "nan", "NA", "true", "2020-01-01", "[SEP]", "##a", "\ufeff", "\u202eabc"),
    *("🙂" * 50, "世界", "e\u0301" * 200, "x" * 100_000, "word " * 20_000, "\\", "\\N", "\x1b[31m"),
    *(5, 2.5, True, ["a"], {"a": 1}, "\udcff"),
]
_LABELS: list[Any] = [
    *(None, float("nan"), float("inf"), 0.5, 1.0, -1, 2**40, 2**70, "", " ", "yes", True),
    *([0, 1], [1], [], {"a": 1}, "label", "1", "\x07"),
]


def _rows(count: int, seed: int) -> Rows:
    texts, labels = sentences(count, seed)
    return [{"text": t, "label": k} for t, k in zip(texts, labels, strict=True)]


# ---------------------------------------------------------------- damage to rows


def _cells(rows: Rows, draw: Draw) -> Rows:
    name, values = [("text", _TEXTS), ("label", _LABELS)][int(draw.integers(2))]
    for row in draw.choice(len(rows), int(draw.integers(1, 4)), replace=False).tolist():
        rows[row][name] = values[int(draw.integers(len(values)))]
    return rows


def _whole_column(rows: Rows, draw: Draw) -> Rows:
    name, values = [("text", _TEXTS), ("label", _LABELS)][int(draw.integers(2))]
    value = values[int(draw.integers(len(values)))]
    return [{**row, name: value} for row in rows]


def _renamed(rows: Rows, draw: Draw) -> Rows:
    old = ["text", "label"][int(draw.integers(2))]
    new = ["", " ", "sentence", "id", "x\ny", "label", "text", "class", "é"][int(draw.integers(9))]
    return [{(new if key == old else key): value for key, value in row.items()} for row in rows]


def _one_more(rows: Rows, draw: Draw) -> Rows:
    name = ["sentence", "text_pair", "class", "id", "note", "Text"][int(draw.integers(6))]
    values = [*_TEXTS, *_LABELS, "a", "b"]
    return [{**row, name: values[int(draw.integers(len(values)))]} for row in rows]


def _dropped(rows: Rows, draw: Draw) -> Rows:
    name = ["text", "label"][int(draw.integers(2))]
    return [{key: value for key, value in row.items() if key != name} for row in rows]


def _fewer(rows: Rows, draw: Draw) -> Rows:
    return rows[: int(draw.integers(0, 5))]


def _as_they_are(rows: Rows, draw: Draw) -> Rows:
    return rows


_DAMAGES: list[Callable[[Rows, Draw], Rows]] = [
    *(_cells, _cells, _whole_column, _renamed, _one_more, _dropped, _fewer, _as_they_are)
]

# ---------------------------------------------------------------- files


def _csv(rows: Rows, delimiter: str = ",") -> bytes:
    out = io.StringIO(newline="")
    names = list(rows[0]) if rows else ["text", "label"]
    table = csv.writer(out, delimiter=delimiter)
    table.writerow(names)
    table.writerows([[row.get(name) for name in names] for row in rows])
    return out.getvalue().encode("utf-8", "surrogateescape")


def _tsv(rows: Rows) -> bytes:
    return _csv(rows, "\t")


def _plain_tsv(rows: Rows) -> bytes:
    lines = ["text\tlabel", *("\t".join(map(str, row.values())) for row in rows)]
    return "\n".join(lines).encode("utf-8", "surrogateescape")


def _json_lines(rows: Rows) -> bytes:
    return "\n".join(json.dumps(row) for row in rows).encode()


def _json_array(rows: Rows) -> bytes:
    return json.dumps(rows).encode()


def _parquet(rows: Rows) -> bytes:
    """Write what Arrow can hold; text where it cannot."""
    columns: dict[str, Any] = {}
    for name in dict.fromkeys(key for row in rows for key in row):
        values = [row.get(name) for row in rows]
        try:
            columns[name] = pa.array(values)
        except (pa.ArrowException, ValueError, OverflowError, TypeError):
            columns[name] = pa.array([str(value).encode("utf-8", "replace") for value in values])
            columns[name] = columns[name].cast(pa.string())
    out = io.BytesIO()
    pq.write_table(pa.table(columns or {"text": pa.array([], pa.string())}), out)
    return out.getvalue()


FORMATS: dict[str, list[Callable[[Rows], bytes]]] = {
    "csv": [_csv],
    "tsv": [_tsv, _plain_tsv],
    "jsonl": [_json_lines],
    "json": [_json_array],
    "parquet": [_parquet],
}


def _bytes(content: bytes, draw: Draw) -> bytes:
    """Damage a file's bytes at one place, or write it in another encoding."""
    kind, size = int(draw.integers(7)), len(content)
    place = int(draw.integers(size + 1))
    if kind == 0:
        return content[:place]
    if kind == 1:
        return content[:place] + draw.bytes(int(draw.integers(1, 8))) + content[place:]
    if kind == 2:
        return content[:place] + content[place + int(draw.integers(1, 9)) :]
    if kind == 3:
        return content[:place] + bytes([int(draw.integers(256))]) + content[place + 1 :]
    if kind == 4:
        return content[:place] + content[max(0, place - 60) : place] + content[place:]
    encoding = ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"][int(draw.integers(4))]
    return content.decode("utf-8", "replace").encode(encoding) if kind == 5 else content


def damaged_tables(ending: str, root: Path, count: int, seed: int) -> Iterator[Path]:
    """Write a training table and often others, one of them damaged; yield the folder of each."""
    for number in range(count):
        draw = np.random.default_rng([seed, number, *ending.encode()])
        folder = root / f"{ending}-{number}"  # a process looks at a folder once
        folder.mkdir()
        damaged_split = int(draw.integers(3))
        for place, split in enumerate(("train", "test", "validation")):
            if split != "train" and draw.random() < 0.5:
                continue
            rows = _rows(30, place)
            write = FORMATS[ending][int(draw.integers(len(FORMATS[ending])))]
            if place == damaged_split or draw.random() < 0.2:
                rows = _DAMAGES[int(draw.integers(len(_DAMAGES)))](rows, draw)
            content = write(rows)
            if place == damaged_split and draw.random() < 0.5:
                content = _bytes(content, draw)
            (folder / f"{split}.{ending}").write_bytes(content)
        yield folder
