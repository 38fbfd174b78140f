"""Real: a training on one core with a worker on another is 1.6 times online distillation on one.

All of it is real compute on real images: the training is bound to one core, and its teacher runs
in the same process (online distillation) or in a worker that is bound to another core, one thread
each. A pair is chosen whose teacher takes about as long as the student's step. Twice the resource
cannot give more than twice the speed, and no more than the slower side allows: both ceilings are
printed. The weights must be equal. Starting the worker is not in the time: it is there before.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import torch

from benchmarks._claim import Outcome
from benchmarks._pool import Lesson, OpenPool, cluster_of
from ktbench.records import Augmentation, DataSpec, Item, TrainSpec
from ktbench.teacher.source import TeacherSource

BAR = 1.6
ROUNDS = 3
TEACHER, STUDENT = "wrn_16_2", "wrn_16_1"


def _timed(lesson: Lesson, source: TeacherSource, root: Path) -> tuple[float, str, float]:
    """Seconds of a whole training, its weights' digest, and the teacher's seconds as if live."""
    start = time.perf_counter()
    [made] = lesson.learn(source, root, lesson.cell())
    return time.perf_counter() - start, made.digest, made.cost.teacher_seconds


def _lesson() -> Lesson:
    data = DataSpec(
        source="digits", image_size=32, train_size=640, validation_size=20, test_size=20,
        augment=Augmentation(crop_padding=2),
    )  # fmt: skip
    return Lesson.of(
        data,
        teacher=Item(name=TEACHER),
        student=Item(name=STUDENT),
        train=TrainSpec(epochs=6, batch_size=64),
    )


def run() -> Outcome:
    """Both ways in turns; the ratio is that of the quickest of each."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        return Outcome("this machine lends one core", f">= {BAR} times on two", False)
    torch.set_num_threads(1)
    lesson = _lesson()
    live, pooled, taught, digests = [], [], [], set[str]()
    with tempfile.TemporaryDirectory() as folder, cluster_of(2):
        pool = OpenPool(lesson)
        pool.join("w0")
        pool.wait_for(lambda: len(pool.workers()) == 1)
        _bind(int(pool.workers()["w0"]["process"]), cores[1])
        os.sched_setaffinity(0, {cores[0]})
        try:
            for number in range(ROUNDS):
                root = Path(folder, str(number))
                seconds, digest, teacher = _timed(lesson, lesson.live(), root / "live")
                live.append(seconds)
                taught.append(teacher)
                digests.add(digest)
                source = pool.source()
                seconds, digest, _ = _timed(lesson, source, root / "pool")
                source.close()
                pooled.append(seconds)
                digests.add(digest)
        finally:
            os.sched_setaffinity(0, cores)
        pool.end()
    steps = lesson.train.epochs * lesson.stream().steps_per_epoch
    ratio, share = min(live) / min(pooled), taught[live.index(min(live))] / min(live)
    print(f"{TEACHER} teaches {STUDENT}: {steps} steps of 64, 32 x 32, {ROUNDS} rounds in turns")
    print(f"online distillation, one core: {', '.join(f'{s:.2f}' for s in live)} s")
    print(f"pool, training and worker on a core each: {', '.join(f'{s:.2f}' for s in pooled)} s")
    print(f"the teacher's share of online distillation: {100 * share:.0f} %")
    print(f"ceilings: 2 (twice the resource), {1 / max(share, 1 - share):.2f} for this pair")
    same = len(digests) == 1
    return Outcome(
        f"{ratio:.2f} times online distillation with twice the resource (ceiling 2), weights "
        + ("equal" if same else "NOT equal"),
        f">= {BAR} times, equal weights",
        ratio >= BAR and same,
    )


def _bind(process: int, core: int) -> None:
    """Every thread of a process to one core."""
    for thread in Path(f"/proc/{process}/task").iterdir():
        os.sched_setaffinity(int(thread.name), {core})
