"""Rules for the contents of a results folder: which files ktbench writes, packs and deletes."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

from ktbench.records import KtbenchError
from ktbench.results import run_lock
from ktbench.results.storage import MOST_OF_LOCK
from ktbench.system.files import PREFIX, UnsuitableFileError, read_regular

MADE = ("cells", "weights", "artifacts", "measurements", "teachers", "blocks", "work")
"""Folders that every run makes."""
FOLDERS = (*MADE, "damaged", "logs", "report")
FILES = ("matrix.yaml", "failures.json")

_KEY = r"([a-z]+-)*[0-9a-f]{16}"
RECORDS = re.compile(
    r"lock\.json|matrix\.yaml|failures\.json"
    rf"|(cells|blocks|measurements)/{_KEY}(\.curves|\.samples)?\.(json|parquet)"
    r"|teachers/[0-9a-f]{16}-[0-9a-f]{16}\.curves\.parquet"
    r"|pool/[0-9a-f]{16}[-0-9]*\.json"
)
"""Paths in the folder of what was recorded: enough for a report."""
NETWORKS = re.compile(
    rf"(weights|blocks)/{_KEY}\.pt"
    r"|teachers/[0-9a-f]{16}-[0-9a-f]{16}\.pt"
    rf"|artifacts/{_KEY}(/(?!\.)[^/\\\x00-\x1f]+)+"
)
"""Paths in the folder of trained weights and exported students."""
_OTHER = (
    r"running|clearing"
    rf"|work/{_KEY}/.*"
    r"|logs/[^/]*\.log"
    r"|damaged/(lock\.json|(cells|weights|artifacts|measurements|teachers|blocks)-)[^/]*"
    r"|report/(index\.html|report\.md|(figures|tables)/[^/]*\.(svg|png|csv))"
    rf"|(.*/)?{re.escape(PREFIX)}[^/]*"
)
_OURS = re.compile(f"{RECORDS.pattern}|{NETWORKS.pattern}|{_OTHER}")
"""Files that nothing but a run of ktbench writes, by their path in the folder."""


def refuse_foreign(folder: Path) -> None:
    """Refuse to write into, or delete from, a folder that no run of ktbench made.

    A folder without lock.json is taken where it is empty, or where all that it holds was written by
    a run from under which the folder had been moved away.
    """
    if folder.exists() and not folder.is_dir():
        raise KtbenchError(f"{folder}: is a file: choose another --results folder")
    if not folder.is_dir() or (folder / "lock.json").exists():
        return
    foreign = [
        path.name
        for path in folder.iterdir()
        if path.name != run_lock.NAME and not path.name.startswith(PREFIX)
    ]
    if foreign and not _all_ours(folder):
        raise KtbenchError(
            f"{folder}: holds {min(foreign)!r} but no lock.json, so it is no results "
            "folder: choose another --results folder"
        )


def _all_ours(folder: Path) -> bool:
    """True where a run of ktbench writes every file and makes every folder in it."""
    for path in folder.rglob("*"):
        plain = path.is_dir() and not path.is_symlink()
        name = path.relative_to(folder).as_posix()
        if plain and name.partition("/")[0] in (*FOLDERS, "pool"):
            continue
        if plain or path.is_symlink() or not _OURS.fullmatch(name):
            return False
    return True


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of a killed run."""
    for number, place in enumerate([folder, *(folder / name for name in FOLDERS)]):
        pattern = f"{PREFIX}*" if number == 0 else f"**/{PREFIX}*"
        for leftover in place.glob(pattern):
            leftover.unlink(missing_ok=True)


def refuse_unknown_lock(path: Path) -> None:
    """Refuse to delete unless lock.json is one that some version of ktbench wrote."""
    try:
        content = json.loads(read_regular(path, MOST_OF_LOCK, follow=False))
        known = isinstance(content, dict) and {"schema_version", "plan"} <= content.keys()
    except (ValueError, RecursionError, UnsuitableFileError):
        known = False
    if not known:
        raise KtbenchError(
            f"{path}: is no lock of ktbench: nothing was deleted; delete the folder "
            "yourself if it can go"
        )


def clear(folder: Path) -> None:
    """Delete what ktbench wrote except the lock; other files stay, links are not followed.

    The lock goes last, by being replaced: a folder without one would be refused.
    """
    for name in FOLDERS:
        place = folder / name
        if place.is_symlink():
            place.unlink()
        elif place.exists():
            shutil.rmtree(place)
    for name in FILES:
        (folder / name).unlink(missing_ok=True)
