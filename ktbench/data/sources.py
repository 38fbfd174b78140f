"""Paths, names and classes of data sets, for everything that reads one."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from ktbench.records import DataSpec, KtbenchError
from ktbench.system.files import MOST_WEIGHTS, check_regular, named_path
from ktbench.tasks._contract import Labels


def resolve(spec: DataSpec, base: Path) -> Path:
    """Return the folder or file of a spec: `${NAME}` replaced, relative to the matrix file."""
    if not spec.path:
        raise KtbenchError(f"data: source {spec.source!r} needs a path")
    try:
        path = named_path(spec.path, base)
    except KtbenchError as error:
        raise KtbenchError(f"data: {error}") from error
    if not path.exists():
        raise KtbenchError(f"data: no such file or folder {path}: give the path of one")
    if not path.is_dir():
        check_regular(path, MOST_WEIGHTS)
    return path


def file_identity(path: Path, base: Path | None = None) -> str:
    """Return a text that changes when a file is written: its name, size and dates.

    The name is that below `base`. Raises KtbenchError where the file is not there.
    """
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        raise KtbenchError(
            f"data: {shown(str(path))}: cannot be read ({one_line_of(error)})"
        ) from error
    if base is not None and path.is_relative_to(base):
        path = path.relative_to(base)
    name = os.fsencode(path).hex()
    return f"{name} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"


def shown(text: str) -> str:
    """Format a name for messages: on one line, in characters that can be encoded."""
    whole = os.fsencode(text).decode("utf-8", "backslashreplace")
    return whole if whole.isprintable() else whole.encode("unicode_escape").decode("ascii")


def some(names: list[str], most: int = 5) -> str:
    """List the first few names, and count the others."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(shown(name) for name in names[:most]) + more


def one_line_of(error: BaseException) -> str:
    """Format an error's text on one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def counted(count: int, noun: str) -> str:
    """Format a count: `1 picture`, `2 pictures`."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def refuse_untaught(
    name: str, classes: tuple[str, ...], labels: dict[str, Labels], noun: str
) -> None:
    """Raise KtbenchError for a class that only a later split has: nothing could learn it."""
    if not any(len(numbers) for numbers in labels.values()):
        raise KtbenchError(f"data: {name} is empty: give a source with {noun}s")
    taught = set(np.unique(labels["train"]).tolist())
    for split, numbers in labels.items():
        untaught = [classes[n] for n in np.unique(numbers).tolist() if n not in taught]
        if untaught and taught:
            raise KtbenchError(
                f"data: {name}: the {split} split has classes without a training {noun} "
                f"({some(untaught)}), which no network can learn; train has "
                f"{some([classes[n] for n in sorted(taught)])}: "
                f"give both the same names, or leave these {noun}s out"
            )
    if len(taught) == 1:
        raise KtbenchError(
            f"data: {name} has one class only ({shown(classes[taught.pop()])}): two are needed"
        )
