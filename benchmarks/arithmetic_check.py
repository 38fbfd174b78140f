"""Checking each architecture's arithmetic takes at most 2 % of the default matrix's first run.

The whole run, into an empty folder and with an empty cache: later runs find the verdicts kept.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from benchmarks._claim import Outcome
from ktbench.engine.supervised import Supervised
from ktbench.matrix import load, plan
from ktbench.report import write_report
from ktbench.runner import run as run_plan
from ktbench.runner.progress import Silent

BAR = 0.02
MATRIX = Path(__file__).parents[1] / "matrix.yaml"


def run() -> Outcome:
    """One run; the share of its seconds."""
    before = os.environ.get("KTBENCH_CACHE")
    with tempfile.TemporaryDirectory(prefix="ktbench-") as folder:
        os.environ["KTBENCH_CACHE"] = str(Path(folder, "cache"))
        try:
            summary = run_plan(
                plan(load(MATRIX)),
                matrix_text=MATRIX.read_text(encoding="utf-8"),
                folder=Path(folder, "results"),
                engine=Supervised(),
                watcher=Silent(),
                write_report=write_report,
            )
        finally:
            if before is None:
                del os.environ["KTBENCH_CACHE"]
            else:
                os.environ["KTBENCH_CACHE"] = before
    checked, total = summary.seconds["arithmetic"], summary.seconds["total"]
    for stage, seconds in summary.seconds.items():
        print(f"{stage:<12} {seconds:8.1f} s")
    share = checked / total
    return Outcome(
        f"{100 * share:.2f} % ({checked:.1f} of {total:.0f} s)",
        "<= 2 %",
        summary.ok and share <= BAR,
    )
