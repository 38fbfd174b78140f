"""Whole runs for tests: small matrices, and the command line in this process or another."""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from ktbench.cli import main, report
from ktbench.records import Result
from ktbench.results import ResultsFolder
from ktbench.supervision import Child

ROOT = Path(__file__).resolve().parents[2]
SMALL: dict[str, Any] = {
    "name": "small",
    "data": {"source": "digits", "train_size": 60, "validation_size": 30, "test_size": 40},
    "teachers": [{"student": "resnet8", "name": "T"}],
    "students": [{"resnet8": {"width": 0.25}}],
    "methods": ["none", "kd"],
    "seeds": 1,
    "train": {"epochs": 2, "batch_size": 30, "lr": 0.05},
}
"""Two cells in about a second: a teacher, no transfer, and Hinton's distillation."""


@dataclass(frozen=True)
class Answer:
    """A finished command: its exit code and what it printed."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line on standard error of a command that could not do its work."""
        lines = self.err.splitlines()
        assert len(lines) == 1 and lines[0].startswith("ktbench: "), self.err
        return lines[0]


def write_matrix(path: Path, **changes: Any) -> Path:
    """Write a matrix file: `SMALL` with some sections replaced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(SMALL | changes, sort_keys=False))
    return path


class KeptChild(Child):
    """A child process that the commands of many tests use one after the other."""

    def close(self) -> None:
        """Stay, unless work is under way in it: the next command needs it again."""
        if self.busy:
            super().close()


CHILD = KeptChild()
atexit.register(lambda: Child.close(CHILD))


class Commands:
    """`ktbench ...` in this process and its child, with the test's store and working folder.

    Runs end without their report, which takes longer than a small matrix, unless `report` is set.
    With `here` they train in this process, where a test can look on.
    """

    def __init__(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys
        self.report = False
        self.here = False
        monkeypatch.chdir(folder)
        monkeypatch.setenv("KTBENCH_CACHE", str(folder / "cache"))

    def __call__(self, *arguments: str | Path) -> Answer:
        """Run one command."""
        self._capsys.readouterr()
        if self.here and arguments[0] == "run":
            arguments = (*arguments, "--engine", "inline")
        self._monkeypatch.setattr(sys, "argv", ["ktbench", *map(str, arguments)])
        code = 0
        try:
            with self._monkeypatch.context() as patch:
                patch.setattr(Child, "started", lambda: CHILD)
                if not self.report:
                    patch.setattr(report, "write_report", lambda folder, output=None: folder)
                main()
        except SystemExit as end:
            assert end.code is None or isinstance(end.code, int)
            code = end.code or 0
        printed = self._capsys.readouterr()
        return Answer(code, printed.out, printed.err)


def started(
    *arguments: str | Path, cache: Path, environment: dict[str, str] | None = None
) -> subprocess.Popen[str]:
    """Start `python -m ktbench ...` in another process."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.Popen(
        [sys.executable, "-m", "ktbench", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={
            **os.environ,
            "PYTHONPATH": path,
            "KTBENCH_CACHE": str(cache),
            **(environment or {}),
        },
    )


def results(folder: Path) -> dict[str, Result]:
    """Return every result of a folder by its cell's label."""
    return {result.cell.label: result for result in ResultsFolder(folder).results()}


def digests(folder: Path) -> dict[str, str]:
    """Return the digest of every trained cell's weights by its label."""
    return {k: r.checkpoint.digest for k, r in results(folder).items() if r.checkpoint}
