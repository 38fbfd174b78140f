"""Killed anywhere, nothing is lost but the work since the last checkpoint (invariant 7)."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from ktbench.results import load_results
from ktbench.system.files import PREFIX
from tests.support.running import digests, results, started, write_matrix

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("KTBENCH_KILLS", "4"))
SEED = 20
EVERY_EPOCH = {"KTBENCH_CHECKPOINT_SECONDS": "0"}


def _matrix(folder: Path) -> Path:
    return write_matrix(
        folder / "matrix.yaml",
        name="killed",
        data={"source": "digits", "train_size": 200, "validation_size": 50, "test_size": 50},
        teachers=[{"student": "resnet8", "name": "T", "train": {"epochs": 8}}],
        students=[{"resnet8": {"width": 0.5}}, {"resnet8": {"width": 0.25}}],
        methods=["none", "kd", "fitnet"],
        train={"epochs": 24, "batch_size": 50, "lr": 0.05},
        exports={"formats": "onnx", "precisions": "fp32"},
    )


def _run(matrix: Path, folder: Path) -> subprocess.Popen[str]:
    cache = folder.with_name(f"{folder.name}-cache")
    return started("run", matrix, "--results", folder, cache=cache, environment=EVERY_EPOCH)


def _working(process: subprocess.Popen[str], folder: Path) -> bool:
    """Wait until a process holds the folder: its imports are behind it. False when it ended."""
    while process.poll() is None:
        try:
            if json.loads((folder / "running").read_text())["process"] == process.pid:
                return True
        except (OSError, ValueError):
            pass
        time.sleep(0.01)
    return False


def _saved_work(process: subprocess.Popen[str], folder: Path) -> None:
    """Wait until a training has saved its work, or the process has ended."""
    while process.poll() is None and not any(folder.glob("work/*/training.pt")):
        time.sleep(0.01)


def _assert_whole(*folders: Path) -> None:
    """Every file that has its name is whole: a kill leaves nothing but temporary files behind."""
    for path in (p for folder in folders for p in folder.rglob("*")):
        if not path.is_file() or path.name.startswith(PREFIX) or path.name in ("held", "running"):
            continue
        if path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".parquet":
            pq.read_table(path)
        elif path.suffix == ".pt":
            torch.load(path, weights_only=True)
        elif path.suffix == ".onnx":
            sidecar = json.loads(path.with_name(f"{path.name}.json").read_text())
            assert hashlib.sha256(path.read_bytes()).hexdigest()[:16] == sidecar["sha256_16"]


def test_kills_at_random_moments_leave_the_weights_of_a_run_never_killed(
    tmp_path: Path,
) -> None:
    matrix = _matrix(tmp_path)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    undisturbed = _run(matrix, whole)
    assert _working(undisturbed, whole)
    began = time.monotonic()
    _, told = undisturbed.communicate()
    assert undisturbed.returncode == 0, told
    work_s = time.monotonic() - began
    wanted = digests(whole)
    assert len(wanted) == 6

    chance, kills, resumable = random.Random(SEED), 0, 0
    while True:
        process = _run(matrix, killed)
        working = _working(process, killed)
        if kills < KILLS and working:
            # The waits add up to less than the whole work: most runs end by the signal. Every
            # other kill waits for saved work first, so that some surely fall into a training.
            if kills % 2:
                _saved_work(process, killed)
            wait = chance.uniform(0, 1.4) * work_s / KILLS
            time.sleep(wait)
            process.send_signal(signal.SIGKILL)
        _, told_now = process.communicate()
        told += told_now
        _assert_whole(killed, tmp_path / "killed-cache")
        if process.returncode == -signal.SIGKILL:
            kills += 1
            resumable += any(killed.glob("work/*/training.pt"))
            print(f"kill {kills}: {wait:.2f} s into {work_s:.2f} s of work")
            continue
        assert process.returncode == 0, told_now
        assert digests(killed) == wanted
        if kills == KILLS:
            break
        shutil.rmtree(killed)
        shutil.rmtree(tmp_path / "killed-cache")
    assert resumable, "no kill fell into a training"
    assert "went on after epoch" in told, "saved work was there, but nothing went on from it"
    _assert_complete(killed, whole)


def _assert_complete(killed: Path, whole: Path) -> None:
    """A run that was killed and resumed leaves the same files as one that never was."""
    left = [p for p in (*killed.rglob("*"), *killed.with_name("killed-cache").rglob("*"))]
    assert not [p for p in left if p.name.startswith(PREFIX)]
    assert not list((killed / "work").iterdir())
    files = {p.relative_to(killed).as_posix() for p in killed.rglob("*") if p.is_file()}
    assert files == {p.relative_to(whole).as_posix() for p in whole.rglob("*") if p.is_file()}
    frames = load_results(killed)
    assert set(frames.cells["status"]) == {"done"}
    assert frames.curves.groupby("key").size().eq(24).all()
    for label, result in results(whole).items():
        assert [a.digest for a in results(killed)[label].artifacts] == [
            a.digest for a in result.artifacts
        ]


def test_a_terminated_run_says_how_to_go_on_and_goes_on(tmp_path: Path) -> None:
    train = {"epochs": 200, "batch_size": 50, "lr": 0.05}
    matrix = write_matrix(tmp_path / "m.yaml", methods=["none"], teachers=[], train=train)
    folder = tmp_path / "stopped"
    for number in (signal.SIGTERM, signal.SIGINT):
        process = _run(matrix, folder)
        assert _working(process, folder)
        while not any(folder.glob("work/*/training.pt")) and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(number)
        _, told = process.communicate()
        assert process.returncode == 128 + number
        last = told.splitlines()[-1]
        assert last == "ktbench: stopped; run the same command again to resume"
        assert "Traceback" not in told
        assert not (folder / "running").exists()
    process = _run(matrix, folder)
    _, told = process.communicate()
    assert process.returncode == 0 and "went on after epoch" in told, told
    assert set(load_results(folder).cells["status"]) == {"done"}
