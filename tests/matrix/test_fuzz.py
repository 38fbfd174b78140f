"""Whatever a matrix file holds, `plan` shows its cells or says in lines what is wrong with it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from ktbench import matrix
from tests.support.matrix_mutants import mutants
from tests.support.planning import LONGEST_S, trouble
from tests.support.running import ROOT, started

pytestmark = pytest.mark.slow

SEED = 20261128
PER_MATRIX = int(os.environ.get("KTBENCH_FUZZ", "0") or 0)
"""Mutants of each matrix; a few in an ordinary run of the tests."""
MATRICES = [ROOT / "matrix.yaml", *sorted((ROOT / "matrices").glob("*.yaml"))]


def _sources() -> list[tuple[str, str]]:
    found = [(path.name, path.read_text()) for path in MATRICES]
    return [*found, ("starter.yaml", matrix.starter())]


@pytest.mark.timeout(0)
@pytest.mark.parametrize(("name", "text"), _sources(), ids=[name for name, _ in _sources()])
def test_every_mutant_of_a_matrix_is_planned_or_refused_in_lines(
    name: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KTBENCH_CACHE", str(tmp_path / "cache"))
    troubles = []
    count = PER_MATRIX or 15
    for number, content in enumerate(mutants(text, count, SEED)):
        path = tmp_path / f"m{number}.yaml"
        path.write_bytes(content)
        if (told := trouble(path, to_the_end=number % 20 == 7)) is not None:
            troubles.append(f"{name}, mutant {number}: {told}")
        path.unlink()
    assert not troubles, f"{len(troubles)} of {count}\n" + "\n\n".join(troubles[:20])


def test_mutants_through_the_command_line_end_with_lines_and_an_exit_code(tmp_path: Path) -> None:
    text = (ROOT / "matrix.yaml").read_text()
    for number, content in enumerate(mutants(text, 2 if not PER_MATRIX else 20, SEED + 1)):
        path = tmp_path / f"m{number}.yaml"
        path.write_bytes(content)
        done = started("plan", path, cache=tmp_path / "cache")
        try:
            out, err = done.communicate(timeout=6 * LONGEST_S)
        except subprocess.TimeoutExpired:
            done.kill()
            raise
        assert done.returncode in (0, 2), err
        assert "Traceback" not in err
        assert (done.returncode == 2) == (err != "") and (done.returncode == 0) == (out != "")
