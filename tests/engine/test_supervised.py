"""A network that ends its process costs its own cell; the others have the same weights."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import psutil
import pytest

from tests.support.crashing import NETWORKS
from tests.support.running import Commands, digests, results, started, write_matrix

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("KTBENCH_KILLS", "3"))
ONNX = {"formats": "onnx", "precisions": "fp32"}
DATA = {"source": "digits", "train_size": 60, "validation_size": 20, "test_size": 20}
TRAIN = {"epochs": 3, "batch_size": 20, "lr": 0.05}


def _matrix(folder: Path, *networks: str, **changes: object) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "nets.py").write_text(NETWORKS)
    students = [f"nets.py:{name}" for name in ("Quiet", *networks)]
    settings = {"students": students, "methods": ["none", "kd"], "data": DATA, "train": TRAIN}
    return write_matrix(folder / "m.yaml", **(settings | changes))


def _cells(network: str) -> list[str]:
    return [f"nets.py:{network} / {m} / seed 0" for m in ("none", "kd ← T")]


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        ("Crashes", "ended by SIGSEGV (a crash in native code) while training, step 3"),
        ("CorruptsTheHeap", "its process was ended by SIG"),
        ("Leaves", "ended itself with exit code 0 while training, step 3"),
        ("Hangs", "it made no progress for 5 s while training, step 3"),
        ("TakesAllMemory", "allocate memory"),
    ],
)
def test_a_network_that_ends_its_process_costs_its_own_cells(
    network: str, reason: str, ktbench: Commands, tmp_path: Path
) -> None:
    methods = {"methods": ["none", "kd"] if network == "Crashes" else ["none"]}
    assert ktbench("run", _matrix(tmp_path, **methods), "--results", "alone").code == 0
    path = _matrix(tmp_path, network, limits={"step_seconds": 5}, **methods)
    answer = ktbench("run", path, "--results", "r")
    assert answer.code == 1
    found = results(tmp_path / "r")
    failed = {label for label, result in found.items() if result.status == "failed"}
    assert failed == set(_cells(network)[: len(methods["methods"])])
    for label in failed:
        [failure] = found[label].failures
        assert failure.stage == "train" and reason in failure.reason
        if "SIG" in reason:
            log = failure.reason.rpartition("its output: ")[2]
            assert (tmp_path / log).is_file()
    assert digests(tmp_path / "r") == digests(tmp_path / "alone")


def test_an_export_that_ends_its_process_costs_that_export_alone(
    ktbench: Commands, tmp_path: Path
) -> None:
    path = _matrix(tmp_path, "CrashesInExport", exports=ONNX, methods=["none"], teachers=[])
    assert ktbench("run", path, "--results", "r").code == 1
    found = results(tmp_path / "r")
    bad, good = found[_cells("CrashesInExport")[0]], found[_cells("Quiet")[0]]
    assert good.status == "done" and len(good.artifacts) == 1
    assert bad.checkpoint is not None and not bad.artifacts
    [failure] = bad.failures
    assert (failure.stage, failure.what) == ("export", "onnx-fp32")
    assert "ended itself with exit code 7 while exporting, onnx-fp32" in failure.reason


def test_a_network_that_ends_the_planning_is_skipped_with_its_reason(
    ktbench: Commands, tmp_path: Path
) -> None:
    path = _matrix(tmp_path, "LeavesAtOnce", "HangsAtOnce", limits={"step_seconds": 10})
    answer = ktbench("plan", path)
    assert answer.code == 0, answer.err
    told = " ".join(answer.out.split())
    assert "2 cells" in told and "4 skipped" in told
    assert "ended itself with exit code 3" in told and "it made no progress for 10 s" in told
    assert ktbench("run", path, "--results", "r").code == 0
    assert {r.status for r in results(tmp_path / "r").values()} == {"done", "skipped"}


@pytest.mark.parametrize("raised", ["SystemExit(0)", "KeyboardInterrupt()", "GeneratorExit()"])
def test_a_network_that_asks_to_exit_is_skipped_and_the_others_are_planned(
    raised: str, ktbench: Commands, tmp_path: Path
) -> None:
    path = _matrix(tmp_path)
    with (tmp_path / "nets.py").open("a") as file:
        file.write(f"\n\nclass Asks(Quiet):\n    def forward(self, x):\n        raise {raised}\n")
    matrix = path.read_text().replace("nets.py:Quiet", "nets.py:Quiet\n- nets.py:Asks")
    path.write_text(matrix)
    answer = ktbench("plan", path)
    assert answer.code == 0, answer.err
    told = " ".join(answer.out.split())
    assert "2 cells" in told and "2 skipped" in told and raised.partition("(")[0] in told


def _child_of(process: int) -> psutil.Process | None:
    for child in psutil.Process(process).children():
        if "ktbench.supervision.worker" in child.cmdline():
            return child
    return None


def test_kills_of_the_child_alone_leave_the_weights_of_a_run_never_killed(tmp_path: Path) -> None:
    train = {"epochs": 24, "batch_size": 20, "lr": 0.05}
    path = _matrix(tmp_path, train=train, exports=ONNX)
    every_epoch = {"KTBENCH_CHECKPOINT_SECONDS": "0"}
    run = ("run", path, "--results")
    began = time.monotonic()
    whole = started(*run, tmp_path / "whole", cache=tmp_path / "a", environment=every_epoch)
    _, told = whole.communicate()
    lifetime = time.monotonic() - began  # a busy machine takes longer to get anywhere
    assert whole.returncode == 0, told
    wanted, chance, kills, attempt = digests(tmp_path / "whole"), random.Random(3), 0, 0
    while kills < KILLS:
        folder, attempt = tmp_path / f"killed-{attempt}", attempt + 1
        process = started(*run, folder, cache=tmp_path / f"c{attempt}", environment=every_epoch)
        killed: set[int] = set()
        while process.poll() is None:
            try:
                child = _child_of(process.pid)
                if child is not None and child.pid not in killed and (folder / "running").exists():
                    time.sleep(chance.uniform(0, lifetime / 2))
                    if len(killed) < KILLS - kills:
                        child.send_signal(signal.SIGKILL)
                        killed.add(child.pid)
            except psutil.NoSuchProcess:
                pass
            time.sleep(0.02)
        _, told = process.communicate()
        assert process.returncode == 0, told
        assert digests(folder) == wanted
        kills += len(killed)
        print(f"{kills} kills")
