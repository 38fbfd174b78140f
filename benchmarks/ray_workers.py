"""Two Ray workers of one thread each finish at least 1.7 times as fast as one."""

from __future__ import annotations

BAR = 1.7
ROUNDS = 2
MATRIX = """
name: workers
data: {source: digits}
students: [{resnet20: {width: 0.5}}]
methods: [none]
seeds: 4
train: {epochs: 20, batch_size: 64}
exports: {formats: onnx, precisions: fp32}
"""
_PROGRAM = """
import sys, time
from dataclasses import dataclass
from pathlib import Path
from ktbench.engine.on_ray import OnRay
from ktbench.matrix import load, plan
from ktbench.records import NumericSpec
from ktbench.results import ResultsFolder
from ktbench.runner import Silent, run
from ktbench.runner.jobs import train_and_export

class Timed(OnRay):
    # The clock runs from the first job to the last outcome: both sides start Ray and their
    # workers before it, with one short job for each worker.
    def run(self, function, jobs, report):
        jobs = list(jobs)
        warm = [task for task in plan(load(Path(sys.argv[3]))).cells][: self._workers]
        from ktbench.runner.jobs import CellTask, CohortJob
        root = Path(sys.argv[2]).absolute() / "warm"
        list(super().run(function, [CohortJob((CellTask(c),), None, jobs[0].exports, jobs[0].base,
             root) for c in warm], lambda *_: None))
        began = time.perf_counter()
        yield from super().run(function, jobs, report)
        print("seconds", time.perf_counter() - began)
"""
