"""Sort a folder's table files by split."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ktbench.data.image_source import shown, some
from ktbench.data.split_names import split_of, split_word
from ktbench.records import KtbenchError

_TABLES = (".parquet", ".csv", ".tsv")
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


def table_files(path: Path) -> tuple[dict[str, list[Path]], list[str]]:
    """Return the files of each split in their order, and notes.

    A single file, and files that name no split, are for training. The files of a split are those
    nearest to `path`. Raises KtbenchError where files of several tables could be one split, or none
    is for training.
    """
    if path.is_file():
        return {"train": [path]}, []
    files = _tables_below(path)
    splits: dict[str, list[_File]] = {}
    for file in files:
        if file.split is not None:
            splits.setdefault(file.split, []).append(file)
    if not splits and files:
        splits = {"train": files}
    if "train" not in splits:
        others = f", only {some([f.path.name for f in files])}" if files else ""
        raise KtbenchError(f"data: {shown(str(path))} has no train*.parquet{others}")
    chosen = {split: _nearest(path, split, members) for split, members in splits.items()}
    used = {file for members in chosen.values() for file in members}
    rest = [str(f.path.relative_to(path)) for f in files if f.path not in used]
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


def _tables_below(root: Path) -> list[_File]:
    """List Parquet files, or where there are none text tables, in the order of their paths."""
    files: list[_File] = []
    for where, folders, names in os.walk(root, followlinks=True):
        parts = Path(where).relative_to(root).parts
        folders[:] = [f for f in folders if not f.startswith((".", "__")) and len(parts) < _DEEPEST]
        for name in names:
            if Path(name).suffix.lower() in _TABLES and not name.startswith("."):
                files.append(_file(Path(where, name), len(parts), root))
    endings = [file.path.suffix.lower() for file in files]
    ending = min(endings, key=_TABLES.index, default="")
    of_one_kind = [file for file in files if file.path.suffix.lower() == ending]
    return sorted(of_one_kind, key=lambda file: file.path)


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
