"""The matrix that finishes and measures a search's networks, beside the one it came from."""

from __future__ import annotations

from pathlib import Path

import yaml
from pydantic import JsonValue

from ktbench.matrix import loads, plan
from ktbench.matrix.file_problems import Origin
from ktbench.matrix.yaml_reader import parse
from ktbench.records import BlockSearch, Item, KtbenchError
from ktbench.results import ResultsFolder
from ktbench.system.files import write_atomically

NAME = "matrix.search.yaml"
HEAD = "# Written by `ktbench blockwise search`"
_DROPPED = ("students", "include", "exclude")
"""Sections that name the students of the matrix that was searched."""


def write_matrix(search: BlockSearch, folder: ResultsFolder, output: Path | None = None) -> Path:
    """Write the matrix; run into the same results folder, it trains no block again.

    Everything but the students is the earlier matrix's, except that every block of a choice is
    used (`keep_within: 1`). It lies in the earlier one's folder, which relative paths start from.
    Raises KtbenchError for another place, and for a file that is there and is none of these.
    """
    base = Path(folder.lock().plan.base)
    path = output or base / NAME
    if path.absolute().parent.resolve() != base.resolve():
        raise KtbenchError(
            f"--output {path}: paths of the matrix start from {base}: write it there"
        )
    if path.exists() and not path.read_text(encoding="utf-8").startswith(HEAD):
        raise KtbenchError(f"{path}: exists already: name another file with --output")
    text = matrix_text(search, (folder.path / "matrix.yaml").read_text(encoding="utf-8"), folder)
    plan(loads(text, file=str(path), base=str(base)))  # what is written can be run
    write_atomically(path, text)
    return path


def matrix_text(search: BlockSearch, earlier: str, folder: ResultsFolder) -> str:
    """Return the text of the matrix."""
    values, _ = parse(earlier, Origin(file=str(folder.path / "matrix.yaml")))
    name = values.get("name") or folder.lock().plan.name
    sections = {key: value for key, value in values.items() if key not in _DROPPED}
    students = {n.student.label: n.student for n in search.networks}
    blockwise = {**(sections.pop("blockwise", None) or {}), "keep_within": 1.0}
    sections.pop("name", None)
    head = [
        f"{HEAD} --by {search.by}: what it chose of teacher {search.teacher}'s",
        "# blocks, and one replacement everywhere to compare with.",
        "# Run it into the folder that was searched: no block is trained again.",
    ]
    parts: dict[str, JsonValue] = {
        "name": name,
        **sections,
        "blockwise": blockwise,
        "students": [_entry(student) for student in students.values()],
    }
    lines = [_line(key, value) for key, value in parts.items()]
    return "\n".join([*head, *lines]) + "\n"


def _entry(student: Item) -> JsonValue:
    settings = {k: v for k, v in student.settings.items() if k not in student.implied}
    return {student.name: settings}


def _line(key: str, value: JsonValue) -> str:
    """Write one key of the file; a list has a line per member."""
    if key == "students" and isinstance(value, list):
        return "\n".join([f"{key}:", *(f"  - {_flow(member)}" for member in value)])
    return f"{key}: {_flow(value)}"


def _flow(value: JsonValue) -> str:
    """Write a value on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6, sort_keys=False)
    return text.removesuffix("...\n").strip()
