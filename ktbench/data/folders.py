"""Folders of files: which sub-folders are splits, and which are classes."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np

from ktbench.data.encoded import Encoded
from ktbench.data.file_kinds import FileKind
from ktbench.data.sources import (
    counted,
    file_identity,
    refuse_untaught,
    resolve,
    shown,
    some,
)
from ktbench.data.split_names import by_split, plain_split, split_of
from ktbench.records import DataSpec, KtbenchError
from ktbench.tasks._contract import Labels

_NEVER_DATA = frozenset(
    {"__macosx", "__pycache__", "@eadir", "$recycle.bin", "system volume information", "lost+found"}
)
_NEVER_NAMED = frozenset({"thumbs.db", "desktop.ini"})
_LINKED = 10_000
"""Most folders reached by links beside the real ones; more are taken for circles."""

Parts = tuple[str, ...]
Sorted = dict[str, dict[str, list[Parts]]]
"""Split → class → files, as paths from the root."""


@dataclass
class Tree:
    """Files below a folder, links followed, without hidden and system files."""

    root: Path
    kind: FileKind
    samples: list[Parts] = field(default_factory=list)
    folders: list[Parts] = field(default_factory=list)
    unread: Counter[str] = field(default_factory=Counter)
    """Number of other files, by ending."""
    loops: list[str] = field(default_factory=list)
    """Links that lead back to a folder around them."""


def folder(spec: DataSpec, base: Path, kind: FileKind) -> Encoded:
    """Open `FOLDER/class/*`, `FOLDER/split/class/*` or `FOLDER/class/split/*` of one kind."""
    path = resolve(spec, base)
    if not path.is_dir():
        raise KtbenchError(f"data: {path} is a file: give the folder that holds class folders")
    tree = walk(path, kind)
    by_class, notes = sort_out(tree)
    names = sorted({name for classes in by_class.values() for name in classes})
    files: dict[str, list[Path]] = {}
    labels: dict[str, Labels] = {}
    for split, classes in by_class.items():
        rows = [
            (file, names.index(name))
            for name in sorted(classes)
            for file in sorted(path.joinpath(*parts) for parts in classes[name])
        ]
        files[split] = [file for file, _ in rows]
        labels[split] = np.array([number for _, number in rows], dtype=np.int64)
    titles = tuple(os.fsencode(name).decode("utf-8", "backslashreplace") for name in names)
    if len(titles) == 1:
        _refuse_one_class(tree, names[0])
    refuse_untaught(str(path), titles, labels, kind.noun)

    def row_name(split: str, row: int) -> str:
        return shown(str(files[split][row]))

    def one(split: str, row: int) -> bytes:
        try:
            return files[split][row].read_bytes()
        except OSError as error:
            raise KtbenchError(
                f"data: {row_name(split, row)}: cannot be read ({error.strerror})"
            ) from error

    def read(split: str, rows: Labels) -> Callable[[int], bytes]:
        return lambda row: one(split, row)

    def opened(split: str, row: int) -> IO[bytes]:
        return files[split][row].open("rb")

    def identity(split: str, rows: Labels) -> Iterator[str]:
        return (file_identity(files[split][row], path) for row in rows.tolist())

    return Encoded(str(path), titles, labels, read, row_name, identity, opened, tuple(notes))


def _refuse_one_class(tree: Tree, name: str) -> None:
    inner = {parts[1] for parts in tree.samples if parts[0] == name and len(parts) > 2}
    advice = (
        f"give data.path {shown(str(tree.root / name))}" if len(inner) > 1 else "two are needed"
    )
    raise KtbenchError(
        f"data: {shown(str(tree.root))} has one class only ({shown(name)}): {advice}"
    )


# ---------------------------------------------------------------- listing


def walk(root: Path, kind: FileKind) -> Tree:
    """List every file below a folder; raises KtbenchError for what cannot be listed or followed."""
    tree = Tree(root, kind)
    waiting: list[tuple[Path, Parts, frozenset[tuple[int, int]]]] = [(root, (), frozenset())]
    real: set[tuple[int, int]] = set()
    reached = 0
    while waiting:
        path, parts, around = waiting.pop()
        try:
            about = path.stat()
            entries = sorted(os.scandir(path), key=lambda entry: entry.name)
        except OSError as error:
            raise KtbenchError(
                f"data: {shown(str(path))}: cannot be listed ({error.strerror})"
            ) from error
        place = (about.st_dev, about.st_ino)
        if place in around:
            tree.loops.append("/".join(parts))
            continue
        real.add(place)
        reached += 1
        if reached > len(real) + _LINKED:
            raise KtbenchError(f"data: {shown(str(root))}: its links lead in circles: remove them")
        if parts:
            tree.folders.append(parts)
        inner = [entry for entry in entries if _note(entry, parts, tree)]
        waiting += [(Path(e.path), (*parts, e.name), around | {place}) for e in inner]
    return tree


def _note(entry: os.DirEntry[str], parts: Parts, tree: Tree) -> bool:
    """Note a file in the tree; returns True for a folder to descend into."""
    name = entry.name.lower()
    if name.startswith(".") or name in _NEVER_DATA or name in _NEVER_NAMED:
        return False
    if entry.is_dir():
        return True
    ending = Path(name).suffix
    if ending in tree.kind.endings and entry.is_file():
        tree.samples.append((*parts, entry.name))
    elif ending in tree.kind.endings and entry.is_symlink():
        raise KtbenchError(f"data: {shown(entry.path)}: the link leads nowhere: remove it")
    elif parts:
        tree.unread[ending or "no ending"] += 1
    return False


# ---------------------------------------------------------------- splits and classes


def sort_out(tree: Tree) -> tuple[Sorted, list[str]]:
    """Sort samples by split and class, and list what is not read, a line each.

    Raises KtbenchError where folders could be splits or classes, or there is nothing to read.
    """
    where = shown(str(tree.root))
    if not any(len(parts) > 1 for parts in tree.samples):
        if not any(len(parts) == 1 for parts in tree.folders):
            raise KtbenchError(f"data: {where} has no sub-folders: one per class is needed")
        others = f" (but {_endings(tree.unread)})" if tree.unread else ""
        raise KtbenchError(
            f"data: {where} is empty: no {tree.kind.noun} file in any class folder{others}"
        )
    nested = {parts[0] for parts in tree.samples if len(parts) > 2}
    flat = {parts[0] for parts in tree.samples if len(parts) == 2} - nested
    splits = by_split(nested, where)
    if splits:
        _refuse_classes_beside_train(splits, nested | flat, nested, where)
        placed = _split_first(tree, splits)
    elif second := _split_second(tree, where):
        placed = ((second[parts[1]], parts[0], parts) for parts in tree.samples if len(parts) > 2)
    else:
        _refuse_splits_as_classes(nested, flat, where)
        placed = (("train", parts[0], parts) for parts in tree.samples if len(parts) > 1)
    placed_samples: Sorted = {}
    for split, name, parts in placed:
        placed_samples.setdefault(split, {}).setdefault(name, []).append(parts)
    return placed_samples, [*_left_out(tree, splits, placed_samples)]


def _split_first(tree: Tree, splits: dict[str, str]) -> Iterator[tuple[str, str, Parts]]:
    for split, name in splits.items():
        files = [parts for parts in tree.samples if parts[0] == name and len(parts) > 2]
        inner = {parts[1] for parts in files}
        # Archives are often unpacked into a folder of their own name: train/train/class.
        again = len(inner) == 1 and split_of(next(iter(inner))) == split
        depth = 2 if again and all(len(parts) > 3 for parts in files) else 1
        for parts in files:
            yield split, parts[depth], parts


def _split_second(tree: Tree, where: str) -> dict[str, str]:
    """Return the splits in `class/split/*.png` by folder name; empty where there are none."""
    inner: dict[str, set[str]] = {}
    for parts in tree.samples:
        inner.setdefault(parts[0], set()).add(parts[1] if len(parts) > 2 else "")
    inner = {name: names for name, names in inner.items() if names != {""} or len(names) > 1}
    names = set().union(*inner.values())
    plain = {name: split for name in names if (split := plain_split(name)) is not None}
    if not {"train"} < set(plain.values()):
        return {}
    bare = [name for name, inside in inner.items() if not inside <= set(plain)]
    bare += [p[0] for p in tree.samples if len(p) == 2 and p[0] not in inner]
    if bare:
        raise KtbenchError(
            f"data: {where}: some class folders hold the splits {some(sorted(plain))}, but "
            f"{some(sorted(set(bare)))} holds other {tree.kind.file}s: put every class of a "
            "split into one folder with its name"
        )
    by_split(plain, where)
    return plain


def _refuse_classes_beside_train(
    splits: dict[str, str], tops: set[str], nested: set[str], where: str
) -> None:
    """Raise KtbenchError where `train` may be a class, or another folder looks like a split."""
    rest = sorted(tops - set(splits.values()))
    odd = [name for name in rest if name in nested and split_of(name) not in {None, *splits}]
    if odd:
        raise KtbenchError(
            f"data: {where} has {some([*splits.values()])}, and {some(odd)} seems to be a split, "
            "too: name it train, validation or test, or move it away"
        )
    if len(splits) == 1 and any(name in nested for name in rest):
        raise KtbenchError(
            f"data: {where}: is {splits['train']} a split or a class beside "
            f"{some([name for name in rest if name in nested])}? Move one of them away"
        )


def _refuse_splits_as_classes(nested: set[str], flat: set[str], where: str) -> None:
    """Raise KtbenchError where the classes would be splits."""
    tops = sorted(nested | flat)
    named = {name: split for name in tops if (split := split_of(name)) is not None}
    plain = [name for name in sorted(nested) if plain_split(name)]
    if plain:
        raise KtbenchError(
            f"data: {where}: {some(plain)} looks like a split, but no folder of class folders is "
            "named train: put the training classes into one"
        )
    if "train" in named.values() and len(set(named.values())) > 1 and set(named) >= set(tops):
        raise KtbenchError(
            f"data: {where}: {some(tops)} are named as splits, but are not train, validation and "
            "test with sub-folders, one per class: name and fill them so"
        )


def _left_out(tree: Tree, splits: dict[str, str], placed: Sorted) -> Iterator[str]:
    """List what a user might expect to be read and is not, a line each."""
    word = tree.kind.file
    used = {parts for classes in placed.values() for files in classes.values() for parts in files}
    unused = Counter(parts[0] if len(parts) > 1 else "." for parts in set(tree.samples) - used)
    for top, count in sorted(unused.items()):
        if split_of(top) and top not in splits.values():
            yield f"{shown(top)}: {counted(count, word)} without class folders, not read"
        elif splits and top not in splits.values() and top != ".":
            yield f"{shown(top)}: {counted(count, word)} beside the splits, not read"
        else:
            place = "" if top == "." else f" of {shown(top)}"
            yield f"{counted(count, word)} beside the class folders{place}, not read"
    depth = 2 if splits else 1
    full = {parts[:n] for parts in tree.samples for n in range(1, len(parts))}
    empty = ["/".join(p) for p in tree.folders if len(p) <= depth and p not in full]
    if empty:
        yield f"no class, as it holds no {word}: {some(sorted(empty))}"
    if tree.unread:
        yield f"not read: {_endings(tree.unread)}"
    if tree.loops:
        yield f"links that lead back to a folder around them are not followed: {some(tree.loops)}"


def _endings(unread: Counter[str]) -> str:
    items: Iterable[tuple[str, int]] = unread.most_common(5)
    return ", ".join(f"{counted(count, 'file')} with {shown(ending)}" for ending, count in items)
