"""The supervised child process takes at most 3 % more time than running in the same process.

Whole commands on the default matrix, each into an empty folder with an empty cache, in pairs that
change places: `KTBENCH_PAIRS` of them (default 3).
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from benchmarks._claim import Outcome

BAR = 1.03
MATRIX = Path(__file__).parents[1] / "matrix.yaml"
ENGINES = ("supervised", "inline")


def run() -> Outcome:
    """The median of the pairs' ratios; the weights of both sides must be equal."""
    ratios = []
    for number in range(int(os.environ.get("KTBENCH_PAIRS", "3"))):
        order = ENGINES if number % 2 == 0 else ENGINES[::-1]
        seconds, weights = {}, {}
        for engine in order:
            seconds[engine], weights[engine] = _run(engine)
            print(f"pair {number + 1}: {engine:<10} {seconds[engine]:7.1f} s", flush=True)
        if weights["supervised"] != weights["inline"]:
            return Outcome("other weights", f"<= {BAR}", False)
        ratios.append(seconds["supervised"] / seconds["inline"])
    ratio = median(ratios)
    spread = f"{min(ratios):.3f} to {max(ratios):.3f}, n = {len(ratios)}"
    return Outcome(f"{ratio:.3f} ({spread}), equal weights", f"<= {BAR}", ratio <= BAR)


def _run(engine: str) -> tuple[float, dict[str, str]]:
    """Seconds of a whole command, and the digests of the weights that it wrote."""
    with tempfile.TemporaryDirectory(prefix="ktbench-") as folder:
        began = time.perf_counter()
        subprocess.run(
            [
                *(sys.executable, "-m", "ktbench", "run", str(MATRIX), "--quiet"),
                *("--results", f"{folder}/results", "--engine", engine),
            ],
            env={**os.environ, "KTBENCH_CACHE": f"{folder}/cache"},
            check=True,
        )
        seconds = time.perf_counter() - began
        from ktbench.results import ResultsFolder

        results = ResultsFolder(Path(folder, "results")).results()
        digests = {r.cell.key: r.checkpoint.digest for r in results if r.checkpoint is not None}
    return seconds, digests
