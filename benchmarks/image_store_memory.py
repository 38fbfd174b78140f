"""A run on 100,000 photographs holds under 2 GB beyond one on 1,000, at the speed of its steps.

Peaks of the memory of the process that runs and trains (pages of the mapped store count, too), and
the seconds of a training step, by the run's own account. The smaller set is kept in memory, the
larger one in a store. Photographs are JPEG files of 224 pixels a side, a few distinct ones under
many names. KTBENCH_PHOTOGRAPHS sets the number of the larger set, 4,000 when it is not given; the
bar is then as much less than 2 GB, but 0.2 GB at least, for what two runs differ by anyway.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks._claim import Outcome
from benchmarks._photographs import write_photographs

FEW = 1_000
BYTES_EACH, LEAST_BYTES = 2e9 / 100_000, 2e8
SLOWER = 1.1
_MATRIX = """
data: {source: folder, path: PATH, keep: KEEP, augment: {crop_padding: 8, flip: true}}
students: [{resnet8: {width: 0.25}}]
seeds: 1
train: {epochs: 1, batch_size: 32}
"""
_PROGRAM = """
import json, sys
from pathlib import Path

from ktbench.cli import main

matrix, results = sys.argv[1:]
sys.argv[1:] = ["run", matrix, "--results", results, "--engine", "inline", "--quiet"]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
lines = Path("/proc/self/status").read_text().splitlines()
peak = next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
[cell] = Path(results, "cells").glob("*.json")
cost = json.loads(cell.read_text())["checkpoint"]["cost"]
print(json.dumps({"peak": peak, "seconds": cost["seconds"]}))
"""


@dataclass(frozen=True)
class Ran:
    """Bytes of a run's peak, and the training steps per second."""

    peak: int
    rate: float


def _ran(folder: Path, count: int, keep: str) -> Ran:
    """Run the matrix on so many photographs, in a process of its own."""
    write_photographs(folder / "photographs", count)
    matrix = folder / "m.yaml"
    photographs = str(folder / "photographs")
    matrix.write_text(_MATRIX.replace("PATH", photographs).replace("KEEP", keep))
    answer = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(matrix), str(folder / "results")],
        env={**os.environ, "KTBENCH_CACHE": str(folder / "cache")},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    facts = json.loads(answer.stdout.splitlines()[-1])
    trained = count - round(0.2 * count) - round(0.1 * (count - round(0.2 * count)))
    return Ran(facts["peak"], (trained // 32) / facts["seconds"])


def run() -> Outcome:
    """One run on each set."""
    many = int(os.environ.get("KTBENCH_PHOTOGRAPHS", "4000"))
    few, bar = min(FEW, many // 4), max(LEAST_BYTES, BYTES_EACH * many)
    with tempfile.TemporaryDirectory() as folder:
        small = _ran(Path(folder, "small"), few, "memory")
        large = _ran(Path(folder, "large"), many, "store")
    for count, ran in ((few, small), (many, large)):
        print(f"{count:>9,} photographs: {ran.peak / 1e9:.2f} GB, {ran.rate:.2f} steps a second")
    beyond, slower = large.peak - small.peak, small.rate / large.rate
    return Outcome(
        f"{beyond / 1e9:+.2f} GB for {many:,} against {few:,}, a step takes {slower:.2f} times",
        f"< {bar / 1e9:.1f} GB, <= {SLOWER:g} times",
        beyond < bar and slower <= SLOWER,
    )
