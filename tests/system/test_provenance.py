"""Provenance: the versions and the commit that really are there."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from ktbench.system import extras, provenance

ROOT = Path(__file__).parents[2]


def test_every_dependency_of_the_project_is_recorded_with_its_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    core = [re.split(r"[<>=!~ ;\[]", d)[0] for d in project["dependencies"]]
    optional = [name for extra in ("onnx", "tflite", "hub") for name in extras.PACKAGES[extra]]
    assert {*core, *optional} == set(provenance.DISTRIBUTIONS)
    assert set(core) <= provenance.collect().versions.keys()


@pytest.mark.slow
def test_collecting_imports_none_of_the_heavy_dependencies() -> None:
    code = (
        "import sys; from ktbench.system import provenance; provenance.collect(); "
        "print([m for m in ('torch', 'pandas', 'numpy', 'onnx') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout == "[]\n"


def test_the_commit_is_the_checkouts_and_says_when_files_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*arguments: str) -> str:
        identity = ("-c", "user.name=a", "-c", "user.email=a@b")
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    (tmp_path / "ktbench").mkdir()
    (tmp_path / "ktbench" / "__init__.py").write_text("")
    monkeypatch.setattr("ktbench.system.installation.ROOT", tmp_path)
    commit = provenance._commit.__wrapped__
    assert commit() is None
    git("init", "-q")
    assert commit() is None
    git("add", ".")
    git("commit", "-qm", "x")
    assert commit() == git("rev-parse", "HEAD")
    (tmp_path / "ktbench" / "__init__.py").write_text("x = 1\n")
    assert commit() == git("rev-parse", "HEAD") + "+changes"


def test_an_installed_copy_inside_another_repository_has_no_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    inner = tmp_path / "site-packages" / "ktbench"
    inner.mkdir(parents=True)
    monkeypatch.setattr("ktbench.system.installation.ROOT", inner.parent)
    assert provenance._commit.__wrapped__() is None


def test_the_data_digest_is_carried_along() -> None:
    assert provenance.collect("abc").data_digest == "abc"
