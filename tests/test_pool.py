"""A pool of teachers on a real cluster gives what a live teacher gives, whatever happens to it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray")

import ray

from ktbench.records import Checkpoint, Failure, KtbenchError, TrainSpec
from ktbench.teacher.pool.client import Pool, TeachersGone
from ktbench.teacher.pool.messages import PoolJob
from ktbench.train import train_cohort
from tests import pools
from tests.pools import Started
from tests.training import DATA, HERE, TRAIN, cell, digits, places_in, train

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::ResourceWarning")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pools.cluster_of(4):
        yield tmp_path_factory.mktemp("teacher")


def learn(source: Any, root: Path, *cells: Any, **options: Any) -> list[Checkpoint | Failure]:
    return train_cohort(
        list(cells), dataset=digits(), teacher=source, places=places_in(root), base=HERE, **options
    )


def digests(outcomes: list[Checkpoint | Failure]) -> list[str]:
    assert all(isinstance(o, Checkpoint) for o in outcomes), outcomes
    return [o.digest for o in outcomes if isinstance(o, Checkpoint)]


@pytest.mark.parametrize("workers", [1, 3])
def test_a_pool_gives_the_weights_of_a_live_teacher(
    root: Path, tmp_path: Path, workers: int
) -> None:
    cells = [cell("kd"), cell("fitnet"), cell("crd")]
    live = digests(train(cells, tmp_path / "live"))
    pool = Started(root, workers)
    source = pool.source(cells[0])
    made = learn(source, tmp_path / "pool", *cells)
    assert digests(made) == live
    assert all(isinstance(c, Checkpoint) and c.cost.teacher_flops > 0 for c in made)
    assert len(pool.workers()) >= 1
    pool.end()
