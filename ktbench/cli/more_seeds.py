"""`ktbench plan --settle`: the seeds that would decide undecided comparisons."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from ktbench import stats
from ktbench.cli.output import print_line, print_table
from ktbench.report import numbers, scores
from ktbench.runner import more_seeds


def settle_matrix(
    matrix: Path, results: Path, output: Path | None = None, *, as_json: bool = False
) -> None:
    """Write the matrix that decides what the results leave open, and print its cost."""
    settlement = more_seeds.settle(matrix, results)
    path = more_seeds.write(settlement, matrix, output) if settlement.matrix else None
    if as_json:
        print(_as_json(settlement, path))
        return
    with scores.of(settlement.metric):
        _print_comparisons(settlement)
    for reason, number in settlement.left.items():
        print_line(f"left out: {numbers.count(number, 'comparison')}: {reason}")
    print_line(f"decided already: {numbers.count(settlement.decided, 'comparison')}")
    if path is None:
        print_line("nothing to decide: no matrix is written")
        return
    more = f", and {settlement.extra} that they require" if settlement.extra else ""
    print_line(
        f"{numbers.count(len(settlement.cells), 'new training')}{more}: "
        f"{numbers.seconds(settlement.seconds)} of training one at a time, "
        f"{numbers.seconds(settlement.shared_seconds)} with shared work, if they "
        "take as long as the earlier seeds did on their machine"
    )
    print_line(f"wrote {path}; next: ktbench run {path} --results {results}")


def _print_comparisons(settlement: more_seeds.Settlement) -> None:
    if not settlement.comparisons:
        return
    gain = f"gain, {scores.unit()}"
    rows = [
        (
            c.student,
            c.method,
            f"{scores.gain(c.gain)} {scores.gain_interval(c.low, c.high)}".strip(),
            str(c.n),
            str(c.settled_by),
            _seeds(c.seeds),
        )
        for c in settlement.comparisons
    ]
    print_table(
        f"{numbers.count(len(rows), 'comparison')} to decide, "
        f"with {100 * stats.POWER:.0f} % power if "
        "gain and variance stay the same",
        ["student", "method", gain, "n", "seeds to decide", "new seeds"],
        rows,
        whole=(gain,),
    )


def _seeds(seeds: tuple[int, ...]) -> str:
    """`5 to 9`, or a list where they do not follow each other."""
    if len(seeds) > 2 and seeds[-1] - seeds[0] == len(seeds) - 1:
        return f"{seeds[0]} to {seeds[-1]}"
    return ", ".join(map(str, seeds))


def _as_json(settlement: more_seeds.Settlement, path: Path | None) -> str:
    value = {
        "file": str(path) if path else None,
        "comparisons": [asdict(comparison) for comparison in settlement.comparisons],
        "left": settlement.left,
        "decided": settlement.decided,
        "cells": [{"key": cell.key, "label": cell.label} for cell in settlement.cells],
        "extra": settlement.extra,
        "seconds": settlement.seconds,
        "shared_seconds": settlement.shared_seconds,
    }
    return json.dumps(value, indent=1)
