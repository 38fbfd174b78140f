"""Pools of teachers for tests: a small cluster in this process, and workers that misbehave."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ktbench.data import Dataset, Stream
from ktbench.networks.outline import outline
from ktbench.networks.weights import weights_digest
from ktbench.records import Cell, DataSpec
from ktbench.tasks.image_classification import image_signature
from ktbench.teacher.live import Live
from ktbench.teacher.pool import cluster
from ktbench.teacher.pool.answer_check import Expected
from ktbench.teacher.pool.messages import (
    Hello,
    Identity,
    Packed,
    PoolJob,
    Receipt,
    Request,
    StreamKey,
    code_digest,
)
from ktbench.teacher.pool.worker import Worker
from tests.support.optional_tools import OptionalPackage
from tests.support.training import DATA, HERE, NUMERIC, cell, digits, teacher

if TYPE_CHECKING:
    from ktbench.teacher.pool.client import Pool

ray = OptionalPackage("ray")


@contextmanager
def cluster_of(cpus: int) -> Iterator[None]:
    """Start a Ray cluster that belongs to this process."""
    cluster.connect(None, cpus)
    try:
        yield
    finally:
        ray.shutdown()


def job(root: Path, data: DataSpec = DATA) -> tuple[PoolJob, bytes]:
    """Return the job of a pool for the shared teacher of `training`, with the teacher's weights."""
    live = teacher(root)
    taught_by = cell().teacher
    assert taught_by is not None
    identity = Identity(
        teacher=live.digest,
        data=digits(data.model_dump_json()).digest,
        trained_on=digits(taught_by.cell.data.model_dump_json()).digest,
        code=code_digest(),
    )
    buffer = io.BytesIO()
    torch.save(live._network.state_dict(), buffer)
    assert weights_digest(live._network.state_dict()) == live.digest
    return PoolJob(taught_by, data, NUMERIC, str(HERE.resolve()), identity), buffer.getvalue()


def live_on(root: Path, data: Dataset) -> Live:
    """Return the shared teacher, live on another data set's batches."""
    taught_by = cell().teacher
    assert taught_by is not None
    trained_on = digits(taught_by.cell.data.model_dump_json())
    return Live(teacher(root)._network, trained_on=trained_on, dataset=data)


class Started:
    """A pool for one test, under a name that no other test uses."""

    def __init__(
        self, root: Path, workers: int = 1, data: DataSpec = DATA, **settings: Any
    ) -> None:
        made, self.weights = job(root, data)
        # Another base is another name: no two tests share a pool.
        self.job = replace(
            made, teacher=made.teacher.model_copy(update={"name": f"t{os.urandom(4).hex()}"})
        )
        self.settings = {"workers": workers, **settings}
        self.notes: list[str] = []
        self.handles: list[Any] = []
        self.coordinator = self.connect()

    def connect(self) -> Any:
        """Return the coordinator, started again if it is gone."""
        self.coordinator = cluster.pool(self.job, self.weights, **self.settings)
        return self.coordinator

    def source(self, taught: Cell, **options: Any) -> Pool:
        """Return the source that a training of `taught` reads."""
        from ktbench.teacher.pool.client import Pool

        data = digits(self.job.data.model_dump_json())
        stream = Stream.of(data, taught)
        shapes = outline(self.job.teacher.cell.student, image_signature(10, (1, 8, 8)), ".").shapes
        return Pool(
            self.connect,
            self.job,
            stream=stream,
            expected=Expected(shapes),
            epochs=taught.train.epochs,
            note=self.notes.append,
            **{"wait_seconds": 60.0, **options},
        )

    def join(
        self,
        name: str,
        kind: type[Worker] = Worker,
        job: PoolJob | None = None,
    ) -> Any:
        """Add a worker of any kind from outside."""
        actor = ray.remote(kind).options(num_cpus=0, max_restarts=-1)
        handle = actor.remote(job or self.job)
        ray.get(self.coordinator.join.remote(name, [handle]))
        self.handles.append(handle)
        return handle

    def clear(self) -> None:
        """End every worker that came from outside."""
        for handle in self.handles:
            ray.kill(handle)
        self.handles.clear()
        self.wait_for(lambda: not self.status()["workers"])

    def status(self) -> dict[str, Any]:
        """Return the state of the pool, as `ktbench teacher status` shows it."""
        found: dict[str, Any] = ray.get(self.coordinator.status.remote())
        return found

    def workers(self) -> dict[str, dict[str, Any]]:
        """Return the workers that have been admitted, by name."""
        return {w["name"]: w for w in self.status()["workers"] if w["state"] != "starting"}

    def wait_for(self, holds: Callable[[], bool], seconds: float = 60) -> None:
        """Wait until a condition holds."""
        deadline = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < deadline, self.status()
            time.sleep(0.05)

    def end(self) -> None:
        """End the pool with all its workers."""
        ray.kill(self.coordinator)


def most_ahead(pool: Started) -> int:
    """Return how many batches a single worker may be asked ahead of a single student."""
    return 4


class Slow(Worker):
    """Takes its time."""

    def _answer(self, key: StreamKey, request: Request) -> Packed:
        time.sleep(0.02)
        return super()._answer(key, request)


class Garbage(Worker):
    """Answers at once, in turns with other shapes, other types, NaN and nothing at all."""

    turn = 0

    def answer(self, key: StreamKey, request: Request) -> tuple[Receipt, Packed | None]:
        receipt, packed = super().answer(key, request)
        assert packed is not None
        self.turn += 1
        values, shape, strides = packed.parts["logits"]
        broken = {
            0: (values, (shape[0], shape[1] * 2), strides),
            1: (np.full_like(values, np.nan), shape, strides),
            2: (values.astype(np.float64), shape, strides),
            3: (values[:-1], shape, strides),
        }
        packed.parts["logits"] = broken[self.turn % 4]
        return receipt, packed if self.turn % 5 else None


class Nan(Worker):
    """Has NaN for the batch of step 4, whoever asks."""

    def _answer(self, key: StreamKey, request: Request) -> Packed:
        packed = super()._answer(key, request)
        if request.step == 4:
            values, shape, strides = packed.parts["logits"]
            packed.parts["logits"] = (np.full_like(values, np.nan), shape, strides)
        return packed


class Hangs(Worker):
    """Never answers after its fifth batch."""

    turn = 0

    def _answer(self, key: StreamKey, request: Request) -> Packed:
        self.turn += 1
        if self.turn > 5:
            time.sleep(3600)
        return super()._answer(key, request)


class Stranger(Worker):
    """Has the right teacher and other code."""

    def _ready(self, weights: bytes) -> Hello:
        hello = super()._ready(weights)
        assert hello.identity is not None
        return replace(hello, identity=replace(hello.identity, code="0" * 16))


class Heretic(Worker):
    """Has another teacher of the same shape."""

    def _ready(self, weights: bytes) -> Hello:
        state = torch.load(io.BytesIO(weights), weights_only=True)
        name = next(iter(state))
        state[name] = state[name] + 1e-3
        buffer = io.BytesIO()
        torch.save(state, buffer)
        return super()._ready(buffer.getvalue())
