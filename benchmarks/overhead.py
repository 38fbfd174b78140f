"""The runner's own time is under 2 % of a matrix's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks._claim import Outcome

BAR = 0.02
MATRIX = """
name: overhead
data: {source: digits, train_size: 200}
teachers: [{student: resnet20, train_size: all, train: {epochs: 2}}]
students: [resnet8, {resnet8: {width: 0.5}}]
methods: [none, kd, attention]
seeds: 2
train: {epochs: 4, batch_size: 50}
exports: {formats: onnx, precisions: [fp32, int8]}
devices: [{local: {repeats: 1}}]
"""
_PROGRAM = """
import json, sys
from pathlib import Path
from ktbench.engine.inline import Inline
from ktbench.matrix import load, plan
from ktbench.report import write_report
from ktbench.runner import Silent, run

matrix = Path(sys.argv[1])
summary = run(
    plan(load(matrix)), matrix_text=matrix.read_text(), folder=matrix.parent / "results",
    engine=Inline(), watcher=Silent(), write_report=write_report,
)
print(json.dumps(summary.seconds))
sys.exit(0 if summary.ok else 1)
"""


def run() -> Outcome:
    """One small real matrix, teacher included, in a process of its own; its clock by stage."""
    with tempfile.TemporaryDirectory() as folder:
        matrix = Path(folder, "matrix.yaml")
        matrix.write_text(MATRIX, encoding="utf-8")
        answer = subprocess.run(
            [sys.executable, "-c", _PROGRAM, str(matrix)],
            env={**os.environ, "KTBENCH_CACHE": str(Path(folder, "cache"))},
            capture_output=True,
            text=True,
            check=True,
        )
    seconds = json.loads(answer.stdout.splitlines()[-1])
    total = seconds.pop("total")
    for stage, spent in seconds.items():
        print(f"{stage:<12}{spent:8.2f} s")
    own = total - sum(seconds.values())
    print(f"{'the runner':<12}{own:8.2f} s")
    print(f"{'total':<12}{total:8.2f} s")
    share = own / total
    return Outcome(f"{100 * share:.2f} %", f"< {100 * BAR:.0f} %", share < BAR)
