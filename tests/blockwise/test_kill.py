"""Workers of a chain killed without warning while they train blocks: the same blocks come of it."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ktbench.engine.on_ray import OnRay
from ktbench.records import BlockTrain
from tests.support.blockwise_runs import Lines, cell, go, results, start_of, weights
from tests.support.ray_jobs import processes

BLOCKS = BlockTrain(epochs=24, batch_size=32, splice_every=6, patience=9, keep_within=0.9)
CELLS = (cell(train=BLOCKS),)
MARK = "KTBENCH_TEST_CHAIN"


@pytest.fixture(autouse=True)
def _settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A checkpoint after every epoch, and a mark that this test's workers inherit."""
    monkeypatch.setenv("KTBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("KTBENCH_CHECKPOINT_SECONDS", "0")
    monkeypatch.setenv(MARK, tmp_path.name)
    yield


def training(mark: str) -> list[int]:
    """Processes that run a job now."""
    found = processes(f"{MARK}={mark}")
    return [number for number, (_, command) in found.items() if command.startswith("ray::work")]


def until(condition: Callable[[], bool], over: threading.Event) -> bool:
    """Wait until something is so; False when the run ended before."""
    while not over.is_set():
        if condition():
            return True
        time.sleep(0.02)
    return False


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_workers_killed_in_mid_chain_change_no_block(tmp_path: Path) -> None:
    """Both workers of a chain die once, after their first checkpoints, and are made up for."""
    whole, folder = tmp_path / "whole", tmp_path / "run"
    assert go(whole, CELLS).ok
    over, killed = threading.Event(), set[int]()

    def saved() -> int:
        return len(list(folder.glob("work/block-*/training.pt")))

    def handing() -> bool:
        return any(folder.glob("work/handed-*/wants-*"))

    def kill() -> None:
        for _ in range(2):
            if not until(
                lambda: handing() and saved() > 0 and len(training(tmp_path.name)) > 1, over
            ):
                return
            victim = next((n for n in training(tmp_path.name) if n not in killed), None)
            if victim is not None:
                os.kill(victim, signal.SIGKILL)
                killed.add(victim)
            time.sleep(0.3)

    killer = threading.Thread(target=kill)
    killer.start()
    watcher = Lines()
    try:
        summary = go(folder, CELLS, OnRay(workers=2), watcher, schedule="contiguous")
    finally:
        over.set()
        killer.join()
    assert summary.ok, watcher.lines
    assert len(killed) == 2, "two kills fall into the training of blocks"
    assert not start_of(results(folder)[0]).failures
    assert weights(folder) == weights(whole)
    assert not list((folder / "work").glob("handed-*"))
