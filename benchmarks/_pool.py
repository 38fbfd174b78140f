"""Real pools of teachers for benchmarks: a cluster of this process's own, and real trainings."""

from __future__ import annotations

import io
import logging
import os
import platform
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from PIL import Image

from ktbench import catalogue
from ktbench.data import Dataset, Stream, load
from ktbench.networks.layout import FIRST
from ktbench.networks.outline import outline
from ktbench.networks.weights import weights_digest
from ktbench.records import Cell, Checkpoint, DataSpec, Item, NumericSpec, Teacher, TrainSpec
from ktbench.teacher.live import Live
from ktbench.teacher.pool import cluster
from ktbench.teacher.pool.answer_check import Expected
from ktbench.teacher.pool.client import Pool
from ktbench.teacher.pool.coordinator import Coordinator
from ktbench.teacher.pool.messages import Identity, PoolJob, code_digest
from ktbench.teacher.pool.scheduler_events import Rules
from ktbench.teacher.pool.worker import Worker
from ktbench.teacher.source import TeacherSource
from ktbench.train import Places, TrainingContext, train_cohort

NUMERIC = NumericSpec(threads=1)
LINGER_S = 3600.0
"""A benchmark ends its pool itself, and may not ask it anything for minutes."""


@contextmanager
def cluster_of(cpus: int) -> Iterator[None]:
    """A Ray cluster of this process's own, which ends with the block."""
    logging.getLogger("ray").setLevel(logging.ERROR)
    cluster.connect(None, cpus)
    try:
        yield
    finally:
        ray.shutdown()


def random_images(folder: Path, *, count: int, side: int = 32) -> DataSpec:
    """`count` colour images of noise in ten classes below `folder`, as a data set."""
    draws = np.random.default_rng(0)
    for number in range(count):
        place = folder / f"class{number % 10}"
        place.mkdir(parents=True, exist_ok=True)
        pixels = draws.integers(0, 256, (side, side, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / f"{number:06}.png")
    return DataSpec(source="folder", path=str(folder), validation_size=20, test_size=20)


@dataclass(frozen=True)
class Lesson:
    """A teacher that was never trained, its students, and what they learn from."""

    data: DataSpec
    teacher: Item
    student: Item
    train: TrainSpec
    weights: bytes = field(repr=False)
    taught_by: Teacher
    dataset: Dataset = field(repr=False)

    @classmethod
    def of(cls, data: DataSpec, *, teacher: Item, student: Item, train: TrainSpec) -> Lesson:
        """The same weights for the same teacher."""
        dataset = load(data, Path())
        torch.manual_seed(0)
        network = catalogue.build_student(
            teacher.name, teacher.settings, base=".", **dataset.dimensions
        )
        buffer = io.BytesIO()
        torch.save(network.state_dict(), buffer)
        cell = Cell(
            data=data, student=teacher, method=Item(name="none"), seed=0, train=train,
            numeric=NUMERIC,
        )  # fmt: skip
        taught_by = Teacher(name="teacher", cell=cell)
        return cls(data, teacher, student, train, buffer.getvalue(), taught_by, dataset)

    def cell(self, method: str = "kd", seed: int = 0) -> Cell:
        """A student of this teacher."""
        return Cell(
            data=self.data, student=self.student, method=Item(name=method),
            teacher=self.taught_by, seed=seed, train=self.train, numeric=NUMERIC,
        )  # fmt: skip

    def network(self) -> Any:
        """The teacher's network with its weights."""
        made: Any = catalogue.build_student(
            self.teacher.name, self.teacher.settings, base=".", **self.dataset.dimensions
        )
        made.load_state_dict(torch.load(io.BytesIO(self.weights), weights_only=True))
        FIRST.place(made)
        return made

    def live(self) -> Live:
        """The teacher in this process."""
        return Live(self.network(), trained_on=self.dataset, dataset=self.dataset, numeric=NUMERIC)

    def job(self) -> PoolJob:
        """The job that workers are given."""
        identity = Identity(
            teacher=weights_digest(self.network().state_dict()),
            data=self.dataset.digest,
            trained_on=self.dataset.digest,
            code=code_digest(),
        )
        return PoolJob(self.taught_by, self.data, NUMERIC, str(Path.cwd()), identity)

    def stream(self, seed: int = 0) -> Stream:
        """The batches of a student."""
        return Stream(self.dataset, seed, self.train.batch_size, self.train.views)

    def learn(self, source: TeacherSource, root: Path, *cells: Cell) -> list[Checkpoint]:
        """Train cells for real; what fails raises."""

        def places(of: Cell) -> Places:
            name = root / of.key
            return Places(
                root=root,
                weights=name.with_suffix(".pt"),
                curves=name.with_suffix(".parquet"),
                work=name.with_suffix(".work"),
            )

        made = train_cohort(
            list(cells),
            TrainingContext(dataset=self.dataset, teacher=source, places=places, base=Path()),
        )
        trained = [one for one in made if isinstance(one, Checkpoint)]
        if len(trained) < len(made):
            raise RuntimeError(f"a training failed: {made}")
        return trained


class OpenPool:
    """A coordinator of one's own with workers that the benchmark starts and ends."""

    def __init__(
        self,
        lesson: Lesson,
        *,
        kind: type[Coordinator] = Coordinator,
        rules: Rules | None = None,
    ) -> None:
        self.lesson, self.job = lesson, lesson.job()
        actor: Any = ray.remote(kind)
        actor = actor.options(num_cpus=0, max_concurrency=1000)
        self.coordinator: Any = actor.remote(self.job, lesson.weights, rules=rules, linger=LINGER_S)
        ray.get(self.coordinator.begin.remote())
        self.shapes = outline(
            lesson.taught_by.cell.student,
            lesson.dataset.signature,
            str(Path.cwd()),
        ).shapes

    def source(
        self, seed: int = 0, *, epochs: int | None = None, coordinator: Any | None = None
    ) -> Pool:
        """Return the source that a training reads."""
        return Pool(
            lambda: coordinator or self.coordinator,
            self.job,
            stream=self.lesson.stream(seed),
            expected=Expected(self.shapes),
            epochs=epochs or self.lesson.train.epochs,
        )

    def join(self, name: str, handle: Any | None = None) -> Any:
        """Take in a worker, a new real one when none is given; answers its handle."""
        if handle is None:
            actor: Any = ray.remote(Worker)
            actor = actor.options(num_cpus=0, max_restarts=-1)
            handle = actor.remote(self.job)
        ray.get(self.coordinator.join.remote(name, [handle]))
        return handle

    def status(self) -> dict[str, Any]:
        """Return the status that the command line shows."""
        found: dict[str, Any] = ray.get(self.coordinator.status.remote())
        return found

    def history(self) -> dict[str, Any]:
        """Return the history that the report draws."""
        found: dict[str, Any] = ray.get(self.coordinator.history.remote())
        return found

    def workers(self) -> dict[str, dict[str, Any]]:
        """Return the workers that have been let in."""
        return {w["name"]: w for w in self.status()["workers"] if w["state"] != "starting"}

    def wait_for(self, holds: Callable[[], bool], seconds: float = 120) -> None:
        """Until something is so; raises RuntimeError when it does not come to be."""
        deadline = time.monotonic() + seconds
        while not holds():
            if time.monotonic() > deadline:
                raise RuntimeError(f"the pool did not get ready: {self.status()}")
            time.sleep(0.05)

    def end(self) -> None:
        """Let it go."""
        ray.kill(self.coordinator)


@dataclass
class Trouble:
    """Random joins, leaves and kills beside a training, all drawn from one seed."""

    pool: OpenPool
    seed: int
    mean_s: float
    """Mean time between two events."""
    most: int
    """Workers at once."""
    joins: int = 0
    leaves: int = 0
    kills: int = 0
    _handles: dict[str, Any] = field(default_factory=dict)
    _over: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def beside(self) -> Iterator[None]:
        """Go on for as long as the block runs."""
        thread = threading.Thread(target=self._run)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()

    def told(self) -> str:
        """Describe what has happened so far."""
        return f"{self.joins} joins, {self.leaves} leaves, {self.kills} kills with -9"

    def join(self) -> None:
        """One more worker."""
        self.joins += 1
        name = f"joined-{self.joins}"
        self._handles[name] = self.pool.join(name)

    def _run(self) -> None:
        draws = np.random.default_rng(self.seed)
        while not self._over.wait(float(draws.exponential(self.mean_s))):
            present = [w for w in self.pool.workers().values() if w["name"] in self._handles]
            action = draws.choice(["join", "leave", "kill"], p=[0.3, 0.2, 0.5])
            if not present or (action == "join" and len(self._handles) < self.most):
                if len(self._handles) < self.most:
                    self.join()
                continue
            chosen = present[int(draws.integers(len(present)))]
            if action == "leave" and len(self._handles) > 1:
                self.leaves += 1
                ray.kill(self._handles.pop(chosen["name"]))
            else:
                self._kill(chosen)

    def _kill(self, worker: dict[str, Any]) -> None:
        """-9, as a machine that loses its power: Ray starts the process again."""
        if worker["node"] == platform.node():
            self.kills += 1
            try:
                os.kill(worker["process"], signal.SIGKILL)
            except ProcessLookupError:
                self.kills -= 1  # It was gone already.
