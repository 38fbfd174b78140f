"""Wheels for another machine, fetched here with pip and kept for the next board of its kind."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from ktbench.boards.choice import Choice
from ktbench.boards.probe import Look
from ktbench.devices._contract import Blob
from ktbench.records import KtbenchError, StorageError, digest_of
from ktbench.system.files import PREFIX, cache_folder

LIMIT_S = 1800.0


@dataclass(frozen=True, slots=True)
class Wheel:
    """A wheel file and its unpacked size."""

    name: str
    blob: Blob
    unpacked_bytes: int


def fetch(choice: Choice, look: Look) -> tuple[Wheel, ...]:
    """Return the wheels of a choice for a board, from the cache if they are there.

    Raises KtbenchError if pip cannot get them, StorageError if they cannot be stored.
    """
    kind = [*choice.requirements, look.version, look.machine, look.glibc, choice.with_dependencies]
    folder = cache_folder() / "wheels" / digest_of(kind)
    if not folder.is_dir():
        _download(choice, look, folder)
    return tuple(_wheel(path) for path in sorted(folder.glob("*.whl")))


def platforms(machine: str, glibc: tuple[int, int]) -> list[str]:
    """Return the tags of wheels that run there, newest first (PEP 600, PEP 599)."""
    major, minor = glibc
    return [
        *(f"manylinux_{major}_{n}_{machine}" for n in range(minor, 16, -1)),
        f"manylinux2014_{machine}",
        f"linux_{machine}",
    ]


def command(choice: Choice, look: Look, folder: Path) -> list[str]:
    """Return pip's argument list; pip's own configuration names its index."""
    assert look.glibc is not None
    tags = [part for tag in platforms(look.machine, look.glibc) for part in ("--platform", tag)]
    return [
        *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"),
        *("--only-binary=:all:", "--implementation", "cp", *tags),
        *("--python-version", ".".join(map(str, look.version)), "--dest", str(folder)),
        *(() if choice.with_dependencies else ("--no-deps",)),
        *choice.requirements,
    ]


def _download(choice: Choice, look: Look, folder: Path) -> None:
    """Fill the folder completely or not at all."""
    part = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=PREFIX, dir=folder.parent))
        _pip(command(choice, look, part), look)
        if not folder.exists():
            part.rename(folder)
    except OSError as error:
        raise StorageError(f"{folder}: cannot keep wheels: {error.strerror}") from error
    finally:
        if part is not None:
            shutil.rmtree(part, ignore_errors=True)


def _pip(arguments: list[str], look: Look) -> None:
    try:
        done = subprocess.run(arguments, capture_output=True, text=True, timeout=LIMIT_S)
    except subprocess.TimeoutExpired as error:
        raise KtbenchError(f"pip did not get the wheels within {LIMIT_S:.0f} s") from error
    if done.returncode == 0:
        return
    if "No module named pip" in done.stderr:
        raise KtbenchError(
            f"{sys.executable} has no pip to fetch wheels with: `{sys.executable} -m ensurepip`"
        )
    errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
    reason = (errors or done.stderr.splitlines() or ["no reason given"])[-1].strip()
    raise KtbenchError(f"pip cannot get wheels for {look.title}: {reason[:300]}")


def _wheel(path: Path) -> Wheel:
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(info.file_size for info in archive.infolist())
        return Wheel(path.name, Blob.read(path), size)
    except (OSError, zipfile.BadZipFile) as error:
        raise KtbenchError(f"{path}: is no wheel: delete {path.parent} and try again") from error
