"""Random damage to results folders, the same for the same seed."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ktbench.records import Record
from ktbench.results import ResultsFolder
from ktbench.results.lock import LockFile
from ktbench.results.storage import marks_of, sealed
from ktbench.results.unpacking import Unpacked
from ktbench.system.files import write_atomically

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "results" / "reference"
SCRIPT = "<script>window.pwned=1</script><img src=x onerror=window.pwned=1>"
HOSTILE_WORDS = (
    SCRIPT,
    "</script><script>window.pwned=1</script>",
    "javascript:window.pwned=1",
    "'\"><svg onload=window.pwned=1>",
    "\x1b[31mred\x1b]0;title\x07",
    "\u202eright to left\u2066",
    "line\nbreak\r\x00nul",
    "$\\frac{1}{$",
    "|a|b|\\`*_",
    "{{ 7*7 }}{% raw %}",
    "../../../../etc/passwd",
    "/etc/passwd",
    "A" * 100_000,
    "2999-01-01T00:00:00+00:00",
    "",
)
HOSTILE_VALUES: tuple[Any, ...] = (
    *HOSTILE_WORDS,
    *(7.5, -1, -0.001, 0, 1e308, -1e308, 10**30, -(10**30), float("nan"), float("inf")),
    *(None, True, [], {}, [[]], {"a": {"b": [1, 2, None]}}, "\ud800", 2**63, 2**63 - 1),
)


def small_folders(place: Path) -> list[Path]:
    """Write small whole results folders: of schema 1, sealed, with measurements, with blocks."""
    return [
        published("elastic-small", place / "whole"),
        _few("hpdc18-small-0.1", place / "measured"),
        _few("blockwise-small", place / "blocks"),
    ]


def published(name: str, target: Path) -> Path:
    """A committed study, unpacked into a folder of the test's own."""
    unpacked = Unpacked(REFERENCE / f"{name}.ktb")
    return shutil.copytree(unpacked.path, target)


def _few(name: str, target: Path) -> Path:
    """Keep a few cells of a study, measured ones first, and seal them."""
    unpacked = Unpacked(REFERENCE / f"{name}.ktb")
    source = ResultsFolder(unpacked.path)
    lock = source.lock()
    measured = [m.cell_key for m in source.measurements()]
    ranked = sorted(lock.plan.cells, key=lambda cell: cell.key not in measured)[:4]
    keys = {cell.key for cell in ranked}
    plan = lock.plan.model_copy(update={"cells": tuple(ranked)})
    for folder in ("cells", "measurements", "teachers", "blocks"):
        (target / folder).mkdir(parents=True, exist_ok=True)
    few = LockFile.of(lock.model_copy(update={"plan": plan}))
    write_atomically(target / "lock.json", sealed(few))
    for cell in ranked:
        result = source.result(cell.key)
        assert result is not None
        curves = f"cells/{cell.key}.curves.parquet"
        shutil.copy(source.path / curves, target / curves)
        newer = result.model_copy(update={"schema_version": 2})
        write_atomically(
            target / f"cells/{cell.key}.json", sealed(newer, marks_of(target, [curves]))
        )
    for file in source.measurement_files():
        measurement = source.measurement(file).record
        if measurement.cell_key in keys:
            shutil.copy(source.path / measurement.samples, target / measurement.samples)
            marks = marks_of(target, [measurement.samples])
            write_atomically(target / "measurements" / file.name, sealed(measurement, marks))
    for file in (source.path / "blocks").glob("search-*.json"):
        shutil.copy(file, target / "blocks" / file.name)
    return target


# ---------------------------------------------------------------- damage


def damage(folder: Path, chance: random.Random) -> str:
    """Damage one to three files of a folder, and return in words what was done."""
    told = []
    for _ in range(chance.choice((1, 1, 2, 3))):
        files = sorted(
            p for p in folder.rglob("*") if p.suffix in (".json", ".parquet") and p.is_file()
        )
        rare = [p for p in files if p.parent.name != "cells"]
        path = chance.choice(rare if rare and chance.random() < 0.4 else files)
        kinds: list[Callable[[Path, random.Random], str]] = [_bytes_of]
        kinds += [_json] * 3 if path.suffix == ".json" else [_parquet] * 2
        told.append(f"{path.relative_to(folder)}: {chance.choice(kinds)(path, chance)}")
    return "; ".join(told)


def _bytes_of(path: Path, chance: random.Random) -> str:
    content = path.read_bytes()
    at = chance.randrange(len(content) or 1)
    kind = chance.choice(_BYTES)
    path.unlink()
    if kind == "truncated":
        path.write_bytes(content[:at])
    elif kind == "flipped":
        path.write_bytes(
            content[:at] + bytes([content[at] ^ 1 << chance.randrange(8)]) + content[at + 1 :]
        )
    elif kind == "garbage":
        path.write_bytes(chance.randbytes(at))
    elif kind == "endless":
        path.symlink_to("/dev/zero")
    elif kind == "a link":
        path.symlink_to("/etc/passwd")
    elif kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a folder":
        path.mkdir()
    elif kind == "200 MB":
        with path.open("wb") as file:
            file.truncate(200 * 2**20)
    elif kind == "nested":
        path.write_text("[" * 100_000)
    elif kind == "another's":
        others = sorted(p for p in path.parent.glob(f"*{path.suffix}") if p.is_file())
        path.write_bytes(chance.choice(others).read_bytes() if others else b"")
    elif kind == "empty":
        path.write_bytes(b"")
    return kind


_BYTES = (
    *("deleted", "truncated", "flipped", "garbage", "endless", "a link", "a pipe", "a folder"),
    *("200 MB", "nested", "another's", "empty"),
)


def _json(path: Path, chance: random.Random) -> str:
    """Put hostile values into a record, half of the time with a seal that fits them."""
    try:
        plain = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return "left"
    marks = plain.pop("files", None) if isinstance(plain, dict) else None
    seal = plain.pop("seal", None) if isinstance(plain, dict) else None
    told = []
    for _ in range(chance.choice((1, 1, 1, 3, 10))):
        told.append(_hurt(plain, chance))
    if seal is not None and chance.random() < 0.5:
        plain |= {} if marks is None else {"files": marks}
        path.write_text(json.dumps(plain))
    elif seal is not None:
        path.write_text(resealed(plain, marks))
    else:
        path.write_text(json.dumps(plain))
    return ", ".join(told)[:200]


def resealed(plain: Any, marks: dict[str, list[Any]] | None) -> str:
    """Return the text of a record with other values and a seal that fits."""

    class Raw(Record):
        def model_dump_json(self, **_: Any) -> str:  # type: ignore[override]
            return json.dumps(plain, indent=1)

    text = sealed(Raw())
    if marks is None:
        return text
    from ktbench.results.storage import Mark

    return sealed(Raw(), {name: Mark(int(m[0]), str(m[1])) for name, m in marks.items()})


def _hurt(value: Any, chance: random.Random) -> str:
    """Replace, remove or add a value somewhere below, and return its path."""
    trail = []
    while True:
        places = list(value) if isinstance(value, dict) else list(range(len(value)))
        if not places:
            return ".".join(trail)
        at = chance.choice(places)
        trail.append(str(at)[:20])
        inner = value[at]
        if not isinstance(inner, dict | list) or not inner or chance.random() < 0.1:
            break
        value = inner
    kind = chance.random()
    if kind < 0.1:
        value.pop(at)
    elif kind < 0.15 and isinstance(value, dict):
        value[chance.choice(HOSTILE_WORDS)] = chance.choice(HOSTILE_VALUES)
    else:
        value[at] = chance.choice(HOSTILE_WORDS if isinstance(inner, str) else HOSTILE_VALUES)
    return ".".join(trail)


def _parquet(path: Path, chance: random.Random) -> str:
    try:
        table = pq.read_table(path)
    except Exception:
        return "left"
    column = chance.randrange(table.num_columns)
    name = table.schema.names[column]
    kind = chance.choice(("type", "values", "name", "fewer", "more", "dropped", "null", "bomb"))
    rows = table.num_rows
    if kind == "type":
        table = table.set_column(column, name, pa.array([SCRIPT] * rows))
    elif kind == "values":
        value = chance.choice((float("nan"), float("inf"), -1.0, 7.5, 1e300))
        table = table.set_column(column, name, pa.array([value] * rows))
    elif kind == "name":
        names = list(table.schema.names)
        names[column] = chance.choice((f"loss_{SCRIPT}", "loss_\x1b[31m", names[0], "loss_new", ""))
        table = table.rename_columns(names)
    elif kind == "fewer":
        table = table.slice(0, chance.randrange(rows or 1))
    elif kind == "more":
        table = pa.concat_tables([table] * 3)
    elif kind == "dropped":
        table = table.drop_columns([name])
    elif kind == "null":
        table = table.set_column(column, name, pa.nulls(rows, table.schema.field(name).type))
    else:
        table = pa.table({name: pa.array([0] * 1_000_000).dictionary_encode()})
    pq.write_table(table, path)
    return f"{name[:20]} {kind}"
