"""Real: a training on one core with a worker on another is 1.6 times online distillation on one.

All of it is real compute on real images: the training is bound to one core, and its teacher runs
in the same process (online distillation) or in a worker that is bound to another core, one thread
each. A pair is chosen whose teacher takes about as long as the student's step. Twice the resource
cannot give more than twice the speed, and no more than the slower side allows: both ceilings are
printed. Five seeds are trained both ways in turns; the weights of each seed must be equal, and the
ratio is the mean over the seeds, with Student's t interval at 95 %. Starting the worker is not in
the time: it is there before.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks._claim import Outcome
from benchmarks._pool import Lesson, OpenPool, cluster_of
from ktbench import stats
from ktbench.records import Augmentation, DataSpec, Item, TrainSpec
from ktbench.teacher.source import TeacherSource

BAR = 1.6
SEEDS = 5
TEACHER, STUDENT = "wrn_40_2", "wrn_16_2"


@dataclass(frozen=True)
class _Training:
    """One whole training; times in seconds."""

    seconds: float
    busy: float
    """Processor time of this process."""
    worker_busy: float
    digest: str
    teacher: float
    """Seconds of the teacher's passes, as if live."""


def _timed(lesson: Lesson, source: TeacherSource, root: Path, worker: int, seed: int) -> _Training:
    start, busy, worker_busy = time.perf_counter(), time.process_time(), _busy(worker)
    [made] = lesson.learn(source, root, lesson.cell(seed=seed))
    return _Training(
        time.perf_counter() - start,
        time.process_time() - busy,
        _busy(worker) - worker_busy,
        made.digest,
        made.cost.teacher_seconds,
    )


def _busy(process: int) -> float:
    """Processor seconds of a process so far."""
    after_name = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(after_name[11]) + int(after_name[12])) / os.sysconf("SC_CLK_TCK")


def _lesson() -> Lesson:
    data = DataSpec(
        source="digits", image_size=32, train_size=640, validation_size=20, test_size=20,
        augment=Augmentation(crop_padding=2),
    )  # fmt: skip
    return Lesson.of(
        data,
        teacher=Item(name=TEACHER),
        student=Item(name=STUDENT),
        train=TrainSpec(epochs=4, batch_size=64),
    )


def run() -> Outcome:
    """Both ways in turns, seed by seed."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        return Outcome("this machine lends one core", f">= {BAR} times on two", False)
    torch.set_num_threads(1)
    lesson = _lesson()
    live, pooled = list[_Training](), list[_Training]()
    with tempfile.TemporaryDirectory() as folder, cluster_of(2):
        pool = OpenPool(lesson)
        pool.join("w0")
        pool.wait_for(lambda: len(pool.workers()) == 1)
        worker = int(pool.workers()["w0"]["process"])
        _bind(worker, cores[1])
        os.sched_setaffinity(0, {cores[0]})
        try:
            for seed in range(SEEDS):
                root = Path(folder, str(seed))
                live.append(_timed(lesson, lesson.live(), root / "live", worker, seed))
                source = pool.source(seed)
                pooled.append(_timed(lesson, source, root / "pool", worker, seed))
                source.close()
        finally:
            os.sched_setaffinity(0, cores)
        pool.end()
    return _judged(lesson, live, pooled)


def _judged(lesson: Lesson, live: list[_Training], pooled: list[_Training]) -> Outcome:
    steps = lesson.train.epochs * lesson.stream().steps_per_epoch
    found = stats.interval([a.seconds / b.seconds for a, b in zip(live, pooled, strict=True)])
    share = statistics.median(t.teacher / t.seconds for t in live)
    busy = [max(two.busy, two.worker_busy) for two in pooled]
    idle = statistics.median(one.busy / most for one, most in zip(live, busy, strict=True))
    print(f"{TEACHER} teaches {STUDENT}: {steps} steps of 64, 32 x 32, {SEEDS} seeds in turns")
    print(f"online distillation, one core: {', '.join(f'{t.seconds:.2f}' for t in live)} s")
    print(f"pool, a core each: {', '.join(f'{t.seconds:.2f}' for t in pooled)} s")
    print(f"the teacher's share of online distillation: {100 * share:.0f} %")
    print(f"ceilings: 2 (twice the resource), {1 / max(share, 1 - share):.2f} for this pair")
    print(
        f"by processor time, as if nothing else had run here: {idle:.2f} times at best; where the "
        "time on the clock is far from it, the machine was busy with other work"
    )
    same = all(one.digest == two.digest for one, two in zip(live, pooled, strict=True))
    return Outcome(
        f"{found.mean:.2f} times [{found.low:.2f}, {found.high:.2f}] online distillation with "
        f"twice the resource (ceiling 2), weights {'equal' if same else 'NOT equal'}",
        f">= {BAR} times, equal weights",
        found.mean >= BAR and same,
    )


def _bind(process: int, core: int) -> None:
    """Every thread of a process to one core."""
    for thread in Path(f"/proc/{process}/task").iterdir():
        os.sched_setaffinity(int(thread.name), {core})
