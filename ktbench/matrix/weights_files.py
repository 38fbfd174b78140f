"""Users' files of weights in a matrix, each with the digest that a key holds in place of a path."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import JsonValue

from ktbench.matrix.file_problems import KeyPath, Problem
from ktbench.matrix.models import FileStart
from ktbench.records import KtbenchError, WeightsFile
from ktbench.system.files import UnsuitableFileError, digest_of_file, named_path

FRESH = "fresh"
"""Word for weights that nothing has trained before."""
StartPoint = str | WeightsFile
"""Origin of a cell's first weights: `FRESH`, the file of another matrix, or a file of weights."""


def file_digest(file: str, base: str) -> tuple[str | None, str]:
    """Return a file's digest, or None and what is wrong with the file."""
    path = Path(base, file)
    try:
        path = named_path(file, base)
        return digest_of_file(path)[1], ""
    except UnsuitableFileError as error:
        return None, str(error)
    except OSError as error:
        return None, f"{path}: {(error.strerror or 'cannot be read').lower()}"
    except KtbenchError as error:
        return None, str(error)


def weights_file(
    entry: FileStart, base: str, path: KeyPath
) -> tuple[WeightsFile | None, list[Problem]]:
    """Return the record of an entry, or the problems of its file."""
    digest, reason = file_digest(entry.file, base)
    if digest is None:
        return None, [Problem((*path, "file"), reason)]
    given = WeightsFile(
        file=entry.file,
        digest=digest,
        head=entry.head,
        freeze=tuple(sorted(set(entry.freeze))),
        lr_scale=entry.lr_scale,
        match=None if entry.match == "names" else entry.match,
    )
    return given, []


def start_entry(given: WeightsFile) -> dict[str, JsonValue]:
    """Return the entry of a matrix that stands for a file of weights."""
    entry = given.model_dump(mode="json", exclude={"digest"})
    return {key: value for key, value in entry.items() if value}


def start_points(
    entries: Sequence[str | FileStart], base: str, path: KeyPath
) -> tuple[list[StartPoint], list[Problem]]:
    """Return what entries of a `start` stand for; a repeated one is a problem."""
    points: list[StartPoint] = []
    problems: list[Problem] = []
    for number, entry in enumerate(entries):
        place = (*path, number)
        if isinstance(entry, str):
            point: StartPoint | None = entry
        else:
            point, more = weights_file(entry, base, place)
            problems += more
        if point is None:
            continue
        same = [one for one in points if name_of(one) == name_of(point)]
        if same:
            problems.append(Problem(place, f"{label_of(point)} is listed twice"))
        points.append(point)
    return points, problems


def name_of(point: StartPoint) -> str:
    """Return a text that is equal for starts that give a cell one key."""
    return point if isinstance(point, str) else point.canonical


def label_of(point: StartPoint) -> str:
    """Return the words that a user knows a start by."""
    return point if isinstance(point, str) else point.label
