"""Names of splits: one rule for folders, table files and the splits of a hub's data set."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ktbench.data.sources import shown, some
from ktbench.records import KtbenchError

SPLIT_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""Words that name a split, in upper or lower case."""

_BY_WORD = {word: split for split, words in SPLIT_WORDS.items() for word in words}
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+|[^\W\d_]+")


def split_word(name: str) -> tuple[str, str] | None:
    """Return the one split word of a name, in lower case, and its other words, or None.

    `seg_train` → (`train`, `seg`), `Test2017` → (`test`, ``); `latest` and `train-vs-test` hold
    no split word or several, and name no split.
    """
    words = [word.lower() for word in _WORD.findall(name)]
    hits = [word for word in words if word in _BY_WORD]
    if len(hits) != 1:
        return None
    return hits[0], " ".join(word for word in words if word not in _BY_WORD)


def split_of(name: str) -> str | None:
    """Return the split that a name stands for, whatever else is in it."""
    hit = split_word(name)
    return _BY_WORD[hit[0]] if hit else None


def plain_split(name: str) -> str | None:
    """Return the split that a name stands for where it holds nothing else but numbers."""
    hit = split_word(name)
    return _BY_WORD[hit[0]] if hit and not hit[1] else None


def by_split(names: Iterable[str], where: str) -> dict[str, str]:
    """Map splits to names that go together: `train` and `val`, or `seg_train` and `seg_test`.

    Empty where no name stands for training. Raises KtbenchError when two stand for one split.
    """
    groups: dict[str, dict[str, list[str]]] = {}
    for name in names:
        hit = split_word(name)
        if hit is not None:
            groups.setdefault(hit[1], {}).setdefault(_BY_WORD[hit[0]], []).append(name)
    whole = [g for rest, g in groups.items() if "train" in g and (len(g) > 1 or not rest)]
    if not whole:
        return {}
    if len(whole) > 1:
        _refuse_two([name for g in whole for name in g["train"]], "train", where)
    return _single(whole[0], where)


def _single(group: Mapping[str, list[str]], where: str) -> dict[str, str]:
    for split, names in group.items():
        if len(names) > 1:
            _refuse_two(names, split, where)
    return {split: names[0] for split, names in group.items()}


def _refuse_two(names: list[str], split: str, where: str) -> None:
    raise KtbenchError(
        f"data: {where} has {' and '.join(sorted(names))}, both for the {split} split: keep one, "
        f"or put them into one named {split}"
    )


# ---------------------------------------------------------------- table files

_TABLES = (".parquet", ".csv", ".tsv", ".jsonl", ".ndjson", ".json")
"""Endings of tables; of a folder the files with the first of them are read."""
_DEEPEST = 3
"""Levels of folders that are searched for files."""


@dataclass(frozen=True)
class _File:
    path: Path
    depth: int
    split: str | None
    word: str
    """Split word in its name, or in its folder's."""
    kind: str
    """Other words before the split word: files of another kind are another table."""
    folder: Path
    """Folder of the split: the file's own, or the parent of the folder that names the split."""


def has_tables(path: Path) -> bool:
    """Return True for a file, and for a folder that holds a table."""
    return path.is_file() or bool(_tables_below(path)[0])


def table_files(path: Path) -> tuple[dict[str, list[Path]], list[str]]:
    """Return the files of each split in their order, and notes.

    A single file, and files that name no split, are for training. The files of a split are those
    nearest to `path`. Raises KtbenchError where files of several tables could be one split, or none
    is for training.
    """
    if path.is_file():
        if path.suffix.lower() not in _TABLES:
            raise KtbenchError(
                f"data: {shown(str(path))} is no table: its name must end in {', '.join(_TABLES)}"
            )
        return {"train": [path]}, []
    files, others = _tables_below(path)
    splits: dict[str, list[_File]] = {}
    for file in files:
        if file.split is not None:
            splits.setdefault(file.split, []).append(file)
    if not splits and files:
        splits = {"train": files}
    if "train" not in splits:
        present = f", only {some([f.path.name for f in files])}" if files else ""
        raise KtbenchError(
            f"data: {shown(str(path))} has no train*.parquet{present}: name the file of the "
            f"training split so, or with another ending of a table ({', '.join(_TABLES[1:])})"
        )
    chosen = {split: _nearest(path, split, members) for split, members in splits.items()}
    used = {file for members in chosen.values() for file in members}
    of_splits = [f for f in others if f.split is not None]
    rest = [str(f.path.relative_to(path)) for f in (*files, *of_splits) if f.path not in used]
    return chosen, [f"files that are not read: {some(rest)}"] if rest else []


def _nearest(path: Path, split: str, files: list[_File]) -> list[Path]:
    depth = min(file.depth for file in files)
    near = [file for file in files if file.depth == depth]
    folders = sorted({str(file.folder.relative_to(path)) for file in near})
    if len(folders) > 1:
        raise KtbenchError(
            f"data: {shown(str(path))} has {split} files in several folders ({some(folders)}): "
            "give data.path of one"
        )
    tables = {(file.word, file.kind): file.path.name for file in near}
    if len(tables) > 1:
        raise KtbenchError(
            f"data: {shown(str(path))} has several tables for the {split} split "
            f"({some(sorted(tables.values()))}): keep one, or give each a folder"
        )
    return [file.path for file in near]


def _tables_below(root: Path) -> tuple[list[_File], list[_File]]:
    """List files of the first kind that is there, and those of others, in order of their paths."""
    files: list[_File] = []
    for where, folders, names in os.walk(root, followlinks=True):
        parts = Path(where).relative_to(root).parts
        folders[:] = [f for f in folders if not f.startswith((".", "__")) and len(parts) < _DEEPEST]
        for name in names:
            if Path(name).suffix.lower() in _TABLES and not name.startswith("."):
                files.append(_file(Path(where, name), len(parts), root))
    endings = [file.path.suffix.lower() for file in files]
    ending = min(endings, key=_TABLES.index, default="")
    files.sort(key=lambda file: file.path)
    of_one_kind = [file for file in files if file.path.suffix.lower() == ending]
    return of_one_kind, [file for file in files if file.path.suffix.lower() != ending]


def _file(path: Path, depth: int, root: Path) -> _File:
    hit = split_word(path.stem)
    if hit is not None:
        first = path.stem.lower().startswith(hit[0])
        return _File(path, depth, split_of(path.stem), hit[0], "" if first else hit[1], path.parent)
    around = split_word(path.parent.name) if depth else None
    if around is not None:
        folder = path.parent.parent
        return _File(path, depth, split_of(path.parent.name), around[0], around[1], folder)
    return _File(path, depth, None, "", "", path.parent)
