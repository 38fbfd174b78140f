"""Whole runs with blockwise students: the same blocks from every schedule, engine and restart."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from ktbench.blockwise import BlockStore, assembly_key
from ktbench.engine.contract import Job, Lost, Outcome, Report, Workers
from ktbench.engine.inline import Inline
from ktbench.engine.on_ray import OnRay
from ktbench.records import Plan
from ktbench.results import ResultsFolder, load_results
from ktbench.runner.blockwise import division
from ktbench.runner.blockwise.jobs import train_some
from tests.support.blockwise_runs import (
    BLOCKS,
    CELLS,
    Lines,
    cell,
    go,
    made_of,
    results,
    start_of,
    weights,
)

pytestmark = pytest.mark.slow


class Several(Inline):
    """As if there were several workers, one after the other; some jobs can be lost."""

    def __init__(self, workers: int, lose: Callable[[Any], bool] = lambda job: False) -> None:
        self._workers, self._lose = workers, lose
        self.jobs: list[Any] = []

    def at(self, plan: Plan, folder: Path) -> AbstractContextManager[Workers]:
        return nullcontext(Workers(self._workers, self._workers))

    def run(  # type: ignore[override]
        self,
        function: Callable[[Job, Report], Outcome],
        jobs: Iterable[Job],
        report: Callable[[Job, float], None],
    ) -> Iterator[tuple[Job, Outcome | Lost]]:
        for job in jobs:
            if function is train_some:
                self.jobs.append(job)
                if self._lose(job):
                    yield job, Lost("its worker was killed")
                    continue
            yield from super().run(function, [job], report)


@pytest.fixture(scope="module", autouse=True)
def _store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KTBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every cell, inline, one relay for all blocks."""
    folder = tmp_path_factory.mktemp("plain") / "run"
    assert go(folder).ok
    return folder


# ---------------------------------------------------------------- what a run gives


def test_a_cell_begins_from_blocks_and_its_result_says_from_which(plain: Path) -> None:
    """Cells that differ in their finish alone begin from the same weights; other seeds' differ."""
    by_cell = {result.cell.key: result for result in results(plain)}
    ours = [by_cell[c.key].start for c in CELLS]
    assert ours[0] is not None and ours[1] is not None and ours[2] is not None
    assert ours[0] == ours[1]
    assert ours[0].digest != ours[2].digest
    assert ours[0].key == assembly_key(CELLS[0])
    for start in (ours[0], ours[2]):
        assert len(start.blocks) == 6 and start.used
        assert BlockStore(plain).find_assembly(start.key) == start
        assert start.joules is not None and start.joules_origin in ("measured", "estimated")
        assert start.elapsed_seconds is not None
    read = load_results(plain)
    assert read.lock.plan.cells == CELLS and set(read.by_key) == {c.key for c in CELLS}
    alone = ours[0].seconds + ours[0].teacher_seconds
    assert alone > 0 and ours[0].shared_seconds > 0


@pytest.mark.parametrize("feed", ["relay", "prefix"])
@pytest.mark.parametrize("schedule", ["longest_first", "contiguous", "queue"])
def test_every_schedule_and_feed_gives_the_same_weights_bit_for_bit(
    plain: Path, tmp_path: Path, schedule: str, feed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three workers and one training, so that its blocks are divided.

    These take turns, so that a worker that wants to be handed something waits in vain.
    """
    monkeypatch.setattr(division, "PATIENCE_S", 0.1)
    engine = Several(3)
    one = (CELLS[0],)
    assert go(tmp_path / "run", one, engine, schedule=schedule, feed=feed).ok
    found = weights(tmp_path / "run")
    assert found == {key: weights(plain)[key] for key in found}
    packs = [[task.name for task in job.tasks] for job in engine.jobs]
    assert len(packs) == (6 if schedule == "queue" else 3)
    assert len({name for pack in packs for name in pack}) == sum(map(len, packs)) == 6


# ---------------------------------------------------------------- what is not done again


def test_blocks_that_are_there_are_not_trained_again(plain: Path, tmp_path: Path) -> None:
    """Another finish trains none; another choice trains the block that is new alone."""
    shutil.copytree(plain, tmp_path / "run")
    engine = Several(1)
    first = cell("attention")
    mixed = cell(choice=["keep", *["separable"] * 5, "depthwise_separable"])  # the stem stays
    assert go(tmp_path / "run", (*CELLS, first, mixed), engine).ok
    before = {block.key for result in results(plain) for block in made_of(result)}
    [job] = engine.jobs
    [new] = job.tasks
    assert new.replacement == "depthwise_separable" and new.key not in before
    by_cell = {result.cell.key: result for result in results(tmp_path / "run")}
    start = by_cell[mixed.key].start
    assert start is not None and start.joules is None and start.elapsed_seconds is None


def test_lost_blocks_fail_their_cells_alone_and_the_next_run_trains_just_those(
    plain: Path, tmp_path: Path
) -> None:
    """A worker's death is no property of a block: a student without it would be another one."""
    doomed: set[str] = set()

    def lose(job: Any) -> bool:
        keys = {task.key for task in job.tasks}
        if job.cell.seed == 0 and not doomed:
            doomed.update(keys)
        return bool(doomed & keys)  # however small the job that holds one of them

    engine = Several(3, lose=lose)
    watcher = Lines()
    cells = (CELLS[0],)
    summary = go(tmp_path / "run", cells, engine, watcher)
    assert [result.cell.key for result in summary.failed] == [CELLS[0].key]
    assert any("its worker was killed" in line for line in watcher.lines)
    lost = {task.key for task in engine.jobs[0].tasks}
    again = Several(1)
    assert go(tmp_path / "run", CELLS, again).ok
    keys = [{task.key for task in job.tasks} for job in again.jobs if job.cell.seed == 0]
    assert keys == [lost]
    assert weights(tmp_path / "run") == weights(plain)


def test_a_block_that_diverges_stays_the_teachers_own_and_is_told(tmp_path: Path) -> None:
    """That is a property of the block: it comes the same every time."""
    wild = BLOCKS.model_copy(update={"lr": 1e30, "optimiser": "sgd"})
    watcher = Lines()
    assert go(tmp_path / "run", (cell(train=wild),), watcher=watcher).ok
    [result] = results(tmp_path / "run")
    assert result.start is not None
    assert result.start.failures and not result.start.used
    assert result.start.validation == result.start.teacher_validation
    assert any("stays the teacher's own" in line for line in watcher.lines)


def test_damaged_first_weights_are_put_together_again(plain: Path, tmp_path: Path) -> None:
    shutil.copytree(plain, tmp_path / "run")
    start = results(tmp_path / "run")[0].start
    assert start is not None
    path = tmp_path / "run" / start.path
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    keys = [c for c in CELLS if assembly_key(c) == start.key]
    for key in keys:
        ResultsFolder(tmp_path / "run").cell(key.key).unlink()
    assert go(tmp_path / "run").ok
    assert path.read_bytes() == whole
    assert weights(tmp_path / "run") == weights(plain)


def test_times_by_which_blocks_are_divided_are_kept_and_decide_no_weight(
    plain: Path, tmp_path: Path
) -> None:
    """Times that say the opposite of what was measured give other packs and the same blocks."""
    folder = tmp_path / "run"
    assert go(folder, (CELLS[0],), Several(2)).ok
    [times] = (folder / "blocks").glob("times-*.json")
    measured = json.loads(times.read_text())
    assert all(load["own"] > 0 and load["prefix"] > 0 for load in measured.values())
    names = list(measured)
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    for path in [*(other / "blocks").iterdir(), *(other / "cells").iterdir()]:
        if not path.name.startswith("times-"):
            path.unlink()
    heavy = {name: {"own": 9.0 if name == names[0] else 1.0, "prefix": 0.0} for name in names}
    (other / "blocks" / times.name).write_text(json.dumps(heavy))
    engine = Several(2)
    assert go(other, (CELLS[0],), engine).ok
    assert sorted(len(job.tasks) for job in engine.jobs) == [1, 5]
    assert weights(other) == weights(folder)


# ---------------------------------------------------------------- Ray


@pytest.mark.ray
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_two_ray_workers_that_share_one_pass_give_the_same_weights(
    plain: Path, tmp_path: Path
) -> None:
    """Neighbours on one worker, each handing its end on; the cells are finished there too."""
    engine = OnRay(workers=2)
    other = cell(replace="depthwise_separable")  # of the same blocks, from the same pass
    assert go(tmp_path / "run", (CELLS[0], other), engine, schedule="contiguous").ok
    assert not any(start_of(result).failures for result in results(tmp_path / "run"))
    found = weights(tmp_path / "run")
    expected = weights(plain)
    assert len(found.keys() & expected.keys()) == 8, "a cell, its first weights, six blocks"
    assert all(found[key] == expected[key] for key in found.keys() & expected.keys())
    assert not list((tmp_path / "run" / "work").glob("handed-*"))
