"""Emulated workers: real messages through the real coordinator, service times by a timer.

One process holds many emulated workers, each with a queue and a speed of its own, so that forty
of them fit on two cores. All else is real: the client that a training loop reads, the coordinator
and its dispatcher, Ray's actor calls and object store. Times are those of a real teacher and a
real student, measured in the same run and stretched by one common factor, so that what a small
machine pays for the messages of a whole cluster does not hide how the work was dispatched.
"""

from __future__ import annotations

import asyncio
import os
import platform
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import ray
import torch

from benchmarks._pool import Lesson, OpenPool
from ktbench import catalogue
from ktbench.networks.layout import FIRST
from ktbench.records import DataSpec, Item, TrainSpec
from ktbench.teacher.pool.messages import Hello, Packed, PoolJob, Receipt, Request, StreamKey
from ktbench.train.device_placement import make_batch
from ktbench.transfer_methods._contract import Needs

CPU = torch.device("cpu")
CALIBRATED_ON = ("wrn_40_2", "resnet14")
"""Teacher and student: an online distillation that spends most of a step on its teacher."""
TEACHER_S = 0.3
"""Seconds that the teacher's forward pass is stretched to."""
SPEEDS = {"fast": 1.0, "middle": 2.5, "slow": 12.5}
"""Slowdowns, as the peak float32 rates of V100, P4 and K1200 are (14, 5.5 and 1.1 TFLOP/s)."""
JITTER = 0.1
_NEEDS = Needs(logits=True)


@dataclass(frozen=True)
class Times:
    """Seconds of a real pair, measured, and the factor that stretches both."""

    teacher: float
    student: float
    factor: float

    @property
    def t_teacher(self) -> float:
        """Emulated seconds of a forward pass on the fastest worker."""
        return self.teacher * self.factor

    @property
    def t_student(self) -> float:
        """Emulated seconds of a training step without its teacher."""
        return self.student * self.factor

    def ceiling(self, students: int, rate: float) -> float:
        """Return the most that a pool of `rate` can gain over online distillation."""
        share = students / rate
        return (self.t_teacher + self.t_student) / max(self.t_student, share)

    def told(self) -> str:
        """One line for the output."""
        teacher, student = CALIBRATED_ON
        return (
            f"measured: {teacher} forward {1e3 * self.teacher:.0f} ms, {student} training step "
            f"{1e3 * self.student:.0f} ms (batch 64, 32 x 32, one thread); emulated at "
            f"{self.factor:.2f} times that: t_T {1e3 * self.t_teacher:.0f} ms, "
            f"t_S {1e3 * self.t_student:.0f} ms"
        )


def calibrated() -> Times:
    """Measure the real pair now, in this process."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    images = FIRST.inputs(torch.randn(64, 3, 32, 32))
    labels = torch.randint(10, (64,))
    teacher, student = (_network(name) for name in CALIBRATED_ON)
    teacher.eval()
    optimiser = torch.optim.SGD(student.parameters(), lr=1e-6, momentum=0.9)

    def teach() -> None:
        with torch.no_grad():
            teacher.forward_features(images)

    def learn() -> None:
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(student(images), labels).backward()  # type: ignore[no-untyped-call]
        optimiser.step()

    taught, learnt = _median_seconds(teach), _median_seconds(learn)
    return Times(taught, learnt, TEACHER_S / taught)


def _network(name: str) -> Any:
    made: Any = catalogue.build_student(name, {}, num_classes=10, in_channels=3)
    FIRST.place(made)
    return made


def _median_seconds(take: Callable[[], None], rounds: int = 7) -> float:
    """Processor time, so that what else the machine does is not in it."""
    take()
    found = []
    for _ in range(rounds):
        start = time.process_time()
        take()
        found.append(time.process_time() - start)
    return statistics.median(found)


# ---------------------------------------------------------------- workers


class Host:
    """A Ray actor that stands for many workers."""

    def __init__(self, job: PoolJob, services: list[float], rows: int, classes: int) -> None:
        self._job, self._services = job, services
        self._free = [0.0] * len(services)
        self._draws = np.random.default_rng(0)
        values = self._draws.standard_normal(rows * classes).astype(np.float32)
        self._packed = Packed({"logits": (values, (rows, classes), (classes, 1))}, 1, 1.0)

    async def hello(self, worker: int, weights: bytes) -> Hello:
        """Introduce the worker as a real one that is ready."""
        return Hello(self._job.identity, f"{platform.node()} (emulated)", os.getpid())

    async def answer(self, worker: int, key: StreamKey, request: Request) -> tuple[Receipt, Packed]:
        """One task after another, each in its worker's service time."""
        now = asyncio.get_running_loop().time()
        service = self._services[worker] * self._draws.uniform(1 - JITTER, 1 + JITTER)
        self._free[worker] = max(now, self._free[worker]) + service
        await asyncio.sleep(self._free[worker] - now)
        return Receipt(service), self._packed

    async def alive(self, worker: int) -> bool:
        """The process is."""
        return True

    async def digest(self, worker: int) -> str:
        """Return the teacher's digest."""
        return self._job.identity.teacher


@dataclass(frozen=True)
class EmulatedWorker:
    """One emulated worker, to the coordinator like the handle of an actor."""

    host: Any
    number: int

    @property
    def hello(self) -> Call:
        """Say who this is."""
        return Call(self, "hello")

    @property
    def answer(self) -> Call:
        """Answer a batch."""
        return Call(self, "answer")

    @property
    def alive(self) -> Call:
        """Ask whether it is there."""
        return Call(self, "alive")

    @property
    def digest(self) -> Call:
        """Ask for the teacher's digest."""
        return Call(self, "digest")


@dataclass(frozen=True)
class Call:
    """A method of an emulated worker."""

    worker: EmulatedWorker
    name: str
    returns: int = 1

    def options(self, *, num_returns: int) -> Call:
        """The same with so many return values."""
        return Call(self.worker, self.name, num_returns)

    def remote(self, *arguments: Any) -> Any:
        """Call it: one real actor call."""
        method = getattr(self.worker.host, self.name).options(num_returns=self.returns)
        return method.remote(self.worker.number, *arguments)


# ---------------------------------------------------------------- a whole pool


@dataclass(frozen=True)
class Mix:
    """Numbers of workers of each speed, and of students that share them."""

    students: int
    workers: dict[str, int]

    @property
    def count(self) -> int:
        """Workers in all."""
        return sum(self.workers.values())

    def services(self, times: Times, seed: int = 0) -> list[float]:
        """Return the workers' service times in a random order of joining, drawn from `seed`."""
        listed = [
            SPEEDS[speed] * times.t_teacher for speed, n in self.workers.items() for _ in range(n)
        ]
        return [float(s) for s in np.random.default_rng(seed).permutation(listed)]

    def rate(self, times: Times) -> float:
        """Batches per second that all workers together can answer."""
        return sum(1 / s for s in self.services(times))

    def __str__(self) -> str:
        speeds = " + ".join(f"{n} {speed}" for speed, n in self.workers.items() if n)
        return f"{speeds}, {self.students} student" + ("s" if self.students > 1 else "")


def lesson() -> Lesson:
    """Return the lesson of emulated trainings, of which only the sizes matter."""
    return Lesson.of(
        DataSpec(source="digits"),
        teacher=Item(name="resnet8"),
        student=Item(name="resnet8"),
        train=TrainSpec(epochs=1000, batch_size=64),
    )


@dataclass
class _Student:
    """An emulated training: the real source, a real batch, and a step that only takes time."""

    pool: OpenPool
    seed: int
    t_student: float
    taken: list[float] = field(default_factory=list)

    def run(self, over: threading.Event) -> None:
        source, stream = self.pool.source(self.seed), self.pool.lesson.stream(self.seed)
        step = 0
        while not over.is_set():
            epoch, number = divmod(step, stream.steps_per_epoch)
            indices = stream.order(epoch)[number]
            batch = make_batch(stream, indices, epoch=epoch, step=step, steps=10**6, device=CPU)
            source.outputs(batch, _NEEDS)
            time.sleep(self.t_student)
            self.taken.append(time.monotonic())
            step += 1
        source.close()


def throughput(
    mix: Mix,
    times: Times,
    *,
    warm_s: float,
    measure_s: float,
    seed: int = 0,
    make: Callable[[Lesson], OpenPool] = OpenPool,
) -> list[float]:
    """Batches per second of each student on an emulated pool, once it has settled."""
    pool = make(lesson())
    services = mix.services(times, seed)
    host: Any = ray.remote(Host)
    handle: Any = host.options(num_cpus=0, max_concurrency=1000).remote(pool.job, services, 64, 10)
    for number in range(mix.count):
        pool.join(f"w{number}", EmulatedWorker(handle, number))
    pool.wait_for(lambda: len(pool.workers()) == mix.count)
    over = threading.Event()
    students = [_Student(pool, seed, times.t_student) for seed in range(mix.students)]
    threads = [threading.Thread(target=s.run, args=(over,)) for s in students]
    for thread in threads:
        thread.start()
    time.sleep(warm_s)
    start = time.monotonic()
    time.sleep(measure_s)
    end = time.monotonic()
    over.set()
    for thread in threads:
        thread.join()
    pool.end()
    ray.kill(handle)
    return [sum(start <= t < end for t in s.taken) / (end - start) for s in students]


def online(times: Times, *, seconds: float) -> float:
    """Batches per second of online distillation: teacher and student take turns."""
    stream = lesson().stream()
    start, steps = time.monotonic(), 0
    while time.monotonic() - start < seconds:
        epoch, number = divmod(steps, stream.steps_per_epoch)
        indices = stream.order(epoch)[number]
        make_batch(stream, indices, epoch=epoch, step=steps, steps=10**6, device=CPU)
        time.sleep(times.t_teacher)
        time.sleep(times.t_student)
        steps += 1
    return steps / (time.monotonic() - start)
