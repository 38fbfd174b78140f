"""A report of 10,000 cells is written in under 20 s.

Two synthetic results folders, of 1,000 and of 10,000 cells, are made through the real API; the
time is that of `write_report` alone, in a process of its own, imports and reading included.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks._claim import Outcome
from benchmarks._synthetic import Shape, write_folder

BAR_SECONDS = 20.0
_METHODS, _SEEDS = 19, 10
_CODE = "import sys; from pathlib import Path; from ktbench.report import write_report; "
_CODE += "write_report(Path(sys.argv[1]))"


def shape_of(cells: int) -> Shape:
    """Students × (19 methods and no transfer) × 10 seeds that make so many cells."""
    return Shape(
        students=tuple(f"net{i:02d}" for i in range(cells // ((_METHODS + 1) * _SEEDS))),
        gains={f"method{i:02d}": 0.004 * (i - _METHODS // 2) for i in range(_METHODS)},
        seeds=_SEEDS,
    )


def _seconds(folder: Path) -> tuple[float, float]:
    """Seconds on the clock and of processor time."""
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", _CODE, str(folder)], check=True)
    passed, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return passed, used


def run() -> Outcome:
    """Make both folders, report each, compare."""
    found = {}
    with tempfile.TemporaryDirectory() as place:
        for cells in (1_000, 10_000):
            folder = Path(place) / str(cells)
            write_folder(folder, shape_of(cells))
            found[cells], used = _seconds(folder)
            print(f"{cells:>6,} cells: {found[cells]:.2f} s ({used:.2f} s of processor time)")
    growth = found[10_000] / found[1_000]
    print(f"ten times the cells take {growth:.1f} times as long")
    seconds = found[10_000]
    return Outcome(f"{seconds:.1f} s", f"< {BAR_SECONDS:.0f} s", seconds < BAR_SECONDS)
