"""Copies out what a person takes away: the file, its sidecar, a program, and the weights."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import torch

from ktbench import catalogue
from ktbench.networks.weights import bare_names, read_state, weights_digest
from ktbench.records import Checkpoint, Item, KtbenchError
from ktbench.results import Results
from ktbench.results.choice.choosing import Choice
from ktbench.results.choice.program import program
from ktbench.results.choice.words import as_json
from ktbench.results.unpacking import Unpacked
from ktbench.system.files import (
    MOST_RECORD,
    MOST_WEIGHTS,
    check_regular,
    read_regular,
    write_atomically,
)

WEIGHTS, PROGRAM, ANSWER = "weights.pt", "run.py", "choice.json"


def take_away(results: Results, choice: Choice, folder: Path) -> list[Path]:
    """Copy the chosen file and what belongs to it into a new or empty folder.

    The file with its sidecar and what else lies beside it (a tokenizer), `weights.pt` (a state dict
    with the network's own names), `choice.json` and, where people have such samples, `run.py`.
    Everything is compared with its record first. Returns the files. Raises KtbenchError where
    something is not there or not what was written, and where the folder holds anything.
    """
    folder = Path(folder)
    _refuse_used(folder)
    candidate = choice.file.candidate
    result = results.by_key[candidate.key]
    artifact = next(a for a in result.artifacts if a.path == candidate.path)
    assert result.checkpoint is not None
    source = _Source(results)
    model = Path(artifact.path)
    files = {model.name: source.read(artifact.path, artifact.digest)}
    sidecar = files[f"{model.name}.json"] = source.read(f"{artifact.path}.json")
    for name, digest in _others(sidecar, f"{artifact.path}.json").items():
        files[name] = source.read(model.with_name(name).as_posix(), digest)
    trained = result.checkpoint
    weights = source.read(trained.path, most=MOST_WEIGHTS)
    files[WEIGHTS] = _weights(weights, results.path / trained.path, trained, result.cell.student)
    reading = catalogue.task(result.cell.data.task).reading()
    if reading is not None:
        files[PROGRAM] = program(model.name, artifact.export.format, reading).encode()
    files[ANSWER] = (json.dumps(as_json(choice), indent=1, allow_nan=False) + "\n").encode()
    for name, content in files.items():
        write_atomically(folder / name, content)
    return [folder / name for name in files]


def _refuse_used(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise KtbenchError(f"{folder}: is a file: choose another --out folder")
    if folder.is_dir() and any(folder.iterdir()):
        first = min(path.name for path in folder.iterdir())
        raise KtbenchError(f"{folder}: holds {first!r}: choose a new --out folder")


class _Source:
    """Files of a results folder, or of a packed one, compared with their records."""

    def __init__(self, results: Results) -> None:
        self.marks = results.marks
        self._unpacked: Unpacked | None = None
        if results.unpacked is None:
            self._root = self._named = results.path
            return
        self._named = results.unpacked.file
        self._unpacked = Unpacked(self._named, networks=True)
        self._root = self._unpacked.path

    def read(self, path: str, digest: str | None = None, most: int = MOST_RECORD) -> bytes:
        """Return a file's bytes; raises KtbenchError where it is not there or another one."""
        mark = self.marks.get(path)
        digest = mark.digest if mark is not None else digest
        try:
            size = check_regular(self._root / path, most)  # a read takes memory for all it may
            content = read_regular(self._root / path, size, follow=False)
        except OSError as error:
            raise KtbenchError(self._absence(path, error)) from error
        if digest is not None and hashlib.sha256(content).hexdigest()[:16] != digest:
            raise KtbenchError(
                f"{self._named / path}: is damaged: it is not what was written: restore it, or "
                "run the matrix again to make it again"
            )
        return content

    def _absence(self, path: str, error: OSError) -> str:
        if self._unpacked is not None:
            return (
                f"{self._named}: was packed without weights and exported files: name the results "
                f"folder, or pack it with `ktbench pack DIR {self._named.name} --weights`"
            )
        reason = "is not there" if isinstance(error, FileNotFoundError) else error.strerror
        return (
            f"{self._named / path}: {reason}: run the matrix again to make it again, or copy the "
            "whole results folder"
        )


def _others(sidecar: bytes, path: str) -> dict[str, str]:
    """Return the digests of the files that a sidecar lists beside its own, by name."""
    try:
        listed = json.loads(sidecar).get("beside", {})
        named = {str(name): str(told["sha256_16"]) for name, told in listed.items()}
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise KtbenchError(f"{path}: is damaged: it is no sidecar: run the matrix again") from error
    if any(Path(name).name != name for name in named):
        raise KtbenchError(f"{path}: is damaged: it lists files of other folders")
    return named


def _weights(content: bytes, path: Path, checkpoint: Checkpoint, student: Item) -> bytes:
    """Return the trained weights as a state dict with the network's own names."""
    state = read_state(content, path)
    if weights_digest(state) != checkpoint.digest:
        raise KtbenchError(f"{path}: is damaged: these are not the weights that were trained")
    if catalogue.is_own(student.name):
        state = bare_names(state)
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()
