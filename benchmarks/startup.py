"""`ktbench --help` answers in under 0.5 s and imports no torch."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from benchmarks._claim import Outcome

BAR_S = 0.5
_HEAVY = ("torch", "numpy", "pandas", "matplotlib", "onnx", "onnxruntime", "scipy", "pydantic")


def _seconds(arguments: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def run() -> Outcome:
    """Median of eleven runs, beside an empty interpreter's in turn."""
    help_s, empty_s = [], []
    for _ in range(11):
        help_s.append(_seconds(["-m", "ktbench", "--help"]))
        empty_s.append(_seconds(["-c", "pass"]))
    listing = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "ktbench", "--help"],
        check=True,
        capture_output=True,
        text=True,
    ).stderr
    modules = {line.rpartition("|")[2].strip() for line in listing.splitlines()}
    heavy = [name for name in _HEAVY if name in modules]
    median = statistics.median(help_s)
    print(f"ktbench --help   {median:.3f} s (median of {len(help_s)})")
    print(f"python -c pass   {statistics.median(empty_s):.3f} s")
    print(f"heavy modules imported: {', '.join(heavy) or 'none'}")
    return Outcome(f"{median:.3f} s", f"< {BAR_S} s, no torch", median < BAR_S and not heavy)
