"""`ktbench plan --settle`: what it prints."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from ktbench import stats
from ktbench.cli.output import print_line, print_table
from ktbench.report import numbers
from ktbench.runner import more_seeds


def settle_matrix(
    matrix: Path, results: Path, output: Path | None = None, *, as_json: bool = False
) -> None:
    """Write the matrix that settles what the results leave undecided, and say what it costs."""
    found = more_seeds.settle(matrix, results)
    path = more_seeds.write(found, matrix, output) if found.matrix else None
    if as_json:
        print(_as_json(found, path))
        return
    _print_comparisons(found)
    for reason, number in found.left.items():
        print_line(f"not to be settled so: {numbers.count(number, 'comparison')}: {reason}")
    print_line(f"decided already: {numbers.count(found.decided, 'comparison')}")
    if path is None:
        print_line("nothing to settle: no matrix is written")
        return
    more = f", and {found.extra} that come with them" if found.extra else ""
    print_line(
        f"{numbers.count(len(found.cells), 'new training')}{more}: "
        f"{numbers.seconds(found.seconds)} of training one by one, "
        f"{numbers.seconds(found.shared_seconds)} with what they share, if they "
        "take as long as the earlier seeds did where those were trained"
    )
    print_line(f"wrote {path}; next: ktbench run {path} --results {results}")


def _print_comparisons(found: more_seeds.Settlement) -> None:
    if not found.comparisons:
        return
    rows = [
        (
            c.student,
            c.method,
            f"{numbers.points(c.gain)} {numbers.point_interval(c.low, c.high)}".strip(),
            str(c.n),
            str(c.settled_by),
            _seeds(c.seeds),
        )
        for c in found.comparisons
    ]
    print_table(
        f"{numbers.count(len(rows), 'comparison')} to settle, "
        f"with {100 * stats.POWER:.0f} % power if "
        "gain and spread stay as they are",
        ["student", "method", "gain, points", "n", "seeds to settle", "new seeds"],
        rows,
        whole=("gain, points",),
    )


def _seeds(seeds: tuple[int, ...]) -> str:
    """`5 to 9`, or a list where they do not follow each other."""
    if len(seeds) > 2 and seeds[-1] - seeds[0] == len(seeds) - 1:
        return f"{seeds[0]} to {seeds[-1]}"
    return ", ".join(map(str, seeds))


def _as_json(found: more_seeds.Settlement, path: Path | None) -> str:
    value = {
        "file": str(path) if path else None,
        "comparisons": [asdict(comparison) for comparison in found.comparisons],
        "left": found.left,
        "decided": found.decided,
        "cells": [{"key": cell.key, "label": cell.label} for cell in found.cells],
        "extra": found.extra,
        "seconds": found.seconds,
        "shared_seconds": found.shared_seconds,
    }
    return json.dumps(value, indent=1)
