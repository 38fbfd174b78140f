"""Choosing among a teacher's blocks beats replacing all of them by one kind, at every cost.

A small network on the digits; four replacements of every block, each trained alone; then, with
nothing more trained, the search under eight budgets of parameters and at what each uniform student
costs. For every uniform student there must be a searched network that costs no more and is no worse
on the validation set, which is what choices are made on, and for at least half of them one that is
better. Accuracies are of the assembled networks, before any finish; test accuracy stands beside.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks._claim import Outcome
from ktbench.engine.inline import Inline
from ktbench.matrix import load, plan
from ktbench.records import BlockSearch, SoughtNetwork
from ktbench.results import ResultsFolder
from ktbench.runner import Silent
from ktbench.runner import run as run_plan
from ktbench.runner.blockwise.search import SearchRequest, search

MATRIX = """\
name: blockwise_search
data: {source: digits, train_size: 997, validation_size: 400, test_size: 400}
teachers: [{student: {resnet14: {width: 0.5}}, name: T, train: {epochs: 30}}]
students: [{blockwise: {of: T, replace: [separable, single_separable, low_rank, bottleneck]}}]
methods: [none]
seeds: [0]
train: {epochs: 1}
blockwise: {epochs: 6, splice_every: 2, keep_within: 1.0}
"""


def finished(matrix: str, folder: Path) -> ResultsFolder:
    """The folder of a matrix that was run."""
    file = folder / "matrix.yaml"
    file.write_text(matrix, encoding="utf-8")
    with _cache(folder / "cache"):
        done = run_plan(
            plan(load(file)),
            matrix_text=matrix,
            folder=folder / "results",
            engine=Inline(),
            watcher=Silent(),
            write_report=None,
        )
    if not done.ok:
        raise RuntimeError(f"the matrix did not finish: {done.failed or done.unmeasured}")
    return ResultsFolder(folder / "results")


@contextmanager
def _cache(folder: Path) -> Iterator[None]:
    """No teacher of an earlier run is found."""
    before = os.environ.get("KTBENCH_CACHE")
    os.environ["KTBENCH_CACHE"] = str(folder)
    try:
        yield
    finally:
        os.environ.pop("KTBENCH_CACHE")
        if before is not None:
            os.environ["KTBENCH_CACHE"] = before


def show(found: BlockSearch) -> None:
    """The curve beside the uniform points."""
    print(
        f"teacher: {found.teacher_parameters:,} parameters, validation "
        f"{found.teacher_validation:.1%}, test {found.teacher_test:.1%}"
    )
    for network in sorted(found.networks, key=lambda n: (n.kind, n.cost)):
        share = network.cost / found.teacher_cost
        print(
            f"{network.kind:<8} {network.name:<17} {share:>4.0%} {network.parameters:>7,} "
            f"parameters: validation {network.validation:>6.1%}, test {network.test:>6.1%}"
        )


def against(uniform: SoughtNetwork, found: BlockSearch) -> float:
    """Return the gain on validation of the best searched network that costs no more."""
    within = [n for n in found.networks if n.kind == "searched" and n.cost <= uniform.cost]
    return max((n.validation for n in within), default=-1.0) - uniform.validation


def run_search() -> BlockSearch:
    """Train the blocks and search among them."""
    with tempfile.TemporaryDirectory() as place:
        return search(finished(MATRIX, Path(place)), SearchRequest())


def run_claim(found: BlockSearch) -> Outcome:
    """The claim, judged."""
    gains = [against(n, found) for n in found.networks if n.kind == "uniform"]
    better = sum(gain > 0 for gain in gains)
    held = min(gains) >= 0 and 2 * better >= len(gains)
    told = ", ".join(f"{100 * gain:+.1f}" for gain in gains)
    bar = "none worse, half of them better"
    return Outcome(f"{better} of {len(gains)} better, by {told} points", bar, held)


def run() -> Outcome:
    """Search, show and judge."""
    found = run_search()
    show(found)
    return run_claim(found)
