"""Two Ray workers of one thread each finish the same cohorts 1.7 times as fast as one."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks._claim import Outcome
from ktbench.engine.on_ray import OnRay
from ktbench.matrix import load, plan
from ktbench.records import Cell, Plan
from ktbench.runner.cohort_jobs import CellTask, CohortJob, CohortOutcome, train_and_export
from ktbench.runner.teacher_wave import TeacherJob, make_teacher
from ktbench.runner.trained_teacher import TrainedTeacher

BAR = 1.7
ROUNDS = 2
MATRIX = """
name: workers
data: {source: digits}
teachers: [{student: resnet20, name: T, train: {epochs: 2}}]
students: [{resnet20: {width: 0.5}}]
methods: [kd, attention]
seeds: 4
train: {epochs: 16, batch_size: 64}
numeric: {threads: 1}
"""


def run() -> Outcome:
    """Four cohorts of two students each, by one worker and by two, in turn.

    Ray's start and that of its workers (each has trained a short cohort) are on neither clock.
    """
    with tempfile.TemporaryDirectory() as folder:
        os.environ["KTBENCH_CACHE"] = str(Path(folder, "cache"))
        matrix = Path(folder, "matrix.yaml")
        matrix.write_text(MATRIX, encoding="utf-8")
        planned = plan(load(matrix))
        teacher = make_teacher(
            TeacherJob(planned.teachers[0], (), Path(folder), Path(folder)), lambda _: None
        )
        assert isinstance(teacher, TrainedTeacher), teacher
        seconds: dict[int, list[float]] = {1: [], 2: []}
        weights = []
        for number in range(ROUNDS):
            for workers, taken in seconds.items():
                root = Path(folder, f"{number}-{workers}")
                spent, digests = _side(planned, teacher, root, workers)
                taken.append(spent)
                weights.append(digests)
    for workers, taken in seconds.items():
        print(f"{workers} worker(s): {', '.join(f'{s:.1f}' for s in taken)} s")
    ratio = sum(seconds[1]) / sum(seconds[2])
    equal = all(digests == weights[0] for digests in weights)
    told = "weights equal" if equal else "weights differ"
    held = ratio >= BAR and equal
    return Outcome(f"{ratio:.2f}x, {told}", f">= {BAR}x, equal", held)


def _side(
    planned: Plan, teacher: TrainedTeacher, root: Path, workers: int
) -> tuple[float, dict[str, str]]:
    """Seconds for all cohorts, and every cell's digest by its key."""
    seeds = sorted({cell.seed for cell in planned.cells})
    cohorts = [[cell for cell in planned.cells if cell.seed == seed] for seed in seeds]
    jobs = [_job(cells, teacher, root) for cells in cohorts]
    short = planned.cells[0].train.model_copy(update={"epochs": 1})
    cell = planned.cells[0].model_copy(update={"train": short})
    first = [_job([cell], teacher, root / f"warm-{n}") for n in range(workers)]
    engine = OnRay(workers=workers)
    root.mkdir()
    with engine.at(planned, root):
        list(engine.run(train_and_export, first, lambda *_: None))
        began = time.perf_counter()
        outcomes = [outcome for _, outcome in engine.run(train_and_export, jobs, lambda *_: None)]
        spent = time.perf_counter() - began
    digests = {}
    for outcome in outcomes:
        assert isinstance(outcome, CohortOutcome), outcome
        for made in outcome.cells:
            assert made.checkpoint is not None, made.failures
            digests[made.cell.key] = made.checkpoint.digest
    return spent, digests


def _job(cells: Sequence[Cell], teacher: TrainedTeacher, root: Path) -> CohortJob:
    tasks = tuple(CellTask(cell) for cell in cells)
    return CohortJob(tasks, (replace(teacher, notes=()),), (), teacher.weights.parent, root)
