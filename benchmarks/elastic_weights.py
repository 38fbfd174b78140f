"""With workers that join, leave and are killed all the time, a pool's weights are a live teacher's.

One small real training on real workers, whose processes are killed with -9, ended and started at
random; the same training with its teacher in the process; both digests must be equal.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks._claim import Outcome
from benchmarks._pool import Lesson, OpenPool, Trouble, cluster_of
from ktbench.records import Augmentation, DataSpec, Item, TrainSpec

METHODS = ("kd", "fitnet", "crd")
MEAN_S, MOST = 1.0, 3


def run() -> Outcome:
    """Train three students of different methods twice."""
    lesson = Lesson.of(
        DataSpec(source="digits", train_size=640, augment=Augmentation(crop_padding=1, flip=True)),
        teacher=Item(name="resnet14"),
        student=Item(name="resnet8", settings={"width": 0.5}),
        train=TrainSpec(epochs=12, batch_size=32),
    )
    cells = [lesson.cell(method) for method in METHODS]
    with tempfile.TemporaryDirectory() as folder, cluster_of(2):
        live = lesson.learn(lesson.live(), Path(folder, "live"), *cells)
        pool = OpenPool(lesson)
        trouble = Trouble(pool, seed=0, mean_s=MEAN_S, most=MOST)
        trouble.join()
        pool.wait_for(lambda: len(pool.workers()) == 1)
        with trouble.beside():
            made = lesson.learn(pool.source(), Path(folder, "pool"), *cells)
        answers = sum(n for _, n in pool.history()["answers"])
        pool.end()
    equal = [ours.digest == theirs.digest for ours, theirs in zip(made, live, strict=True)]
    for method, ours, theirs in zip(METHODS, made, live, strict=True):
        print(f"{method:<8} live {theirs.digest}  pool {ours.digest}")
    steps = lesson.train.epochs * lesson.stream().steps_per_epoch
    print(f"{steps} batches, {answers} answers; {trouble.told()}")
    return Outcome(
        f"{sum(equal)} of {len(equal)} students equal bit for bit; {trouble.told()}",
        "all equal, with each of joins, leaves and kills",
        all(equal) and min(trouble.joins, trouble.leaves, trouble.kills) > 0,
    )
