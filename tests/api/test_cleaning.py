"""`ktbench clean` shows what is there, and removes what is asked and nothing that a run holds."""

from __future__ import annotations

import fcntl
import json
from pathlib import Path

import pytest

from benchmarks._synthetic import Shape, write_folder
from ktbench.results.run_lock import run_lock
from tests.support.running import Answer, Commands


@pytest.fixture
def kept(tmp_path: Path, ktbench: Commands) -> Path:
    """A results folder with kept work, a stored teacher, outputs, and something of others."""
    shape = Shape(students=("resnet8",), gains={}, seeds=1, epochs=2, exports=())
    write_folder(tmp_path / "results" / "run", shape)
    for name in ("results/run/work/k/training.pt", "cache/teachers/t/weights.pt",
                 "cache/teachers/t/held", "cache/outputs/o/rows", "cache/mine/file",
                 "results/other/lock.json"):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x" * 1000)
    return tmp_path


def listed(answer: Answer) -> dict[tuple[str, str], int]:
    return {(one["kind"], Path(one["path"]).name): one["bytes"] for one in json.loads(answer.out)}


def test_everything_of_ktbench_is_listed_with_its_size_and_nothing_else(
    kept: Path, ktbench: Commands
) -> None:
    there = listed(ktbench("clean", "--json"))
    names = {("results", "run"), ("work", "run"), ("teachers", "t"), ("outputs", "o")}
    assert set(there) == names
    assert there["teachers", "t"] == 2000 and there["outputs", "o"] == 1000
    assert there["results", "run"] > there["work", "run"] >= 1000
    assert "--remove teachers: " in ktbench("clean").out
    assert "no such folder" in ktbench("clean", "nowhere").error


def test_only_what_is_asked_goes_and_only_after_yes(kept: Path, ktbench: Commands) -> None:
    assert "add --yes" in ktbench("clean", "--remove", "teachers").err
    assert (kept / "cache/teachers/t").exists()
    answer = ktbench("clean", "--remove", "teachers", "--remove", "work", "--yes")
    assert answer.code == 0 and "removed 3 kB" in answer.out
    assert not (kept / "cache/teachers/t").exists() and not (kept / "results/run/work").exists()
    assert (kept / "results/run/lock.json").exists() and (kept / "cache/outputs/o").exists()
    assert ktbench("clean", "--remove", "results", "--yes").code == 0
    assert not (kept / "results/run").exists() and (kept / "results/other").exists()
    assert (kept / "cache/mine/file").exists()
    assert "unknown kind 'teacher': did you mean teachers" in ktbench(
        "clean", "--remove", "teacher"
    ).error  # fmt: skip


def test_what_a_run_holds_stays(kept: Path, ktbench: Commands) -> None:
    with run_lock(kept / "results/run"), (kept / "cache/teachers/t/held").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        options = [word for kind in ("results", "work", "teachers") for word in ("--remove", kind)]
        answer = ktbench("clean", *options, "--yes")
        assert answer.code == 1 and answer.out.count("stays: ") == 3
    assert (kept / "results/run/work/k/training.pt").exists()
    assert (kept / "cache/teachers/t/weights.pt").exists()
