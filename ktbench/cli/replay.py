"""`ktbench replay`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ktbench.cli.options import ResultsFolder

if TYPE_CHECKING:
    from ktbench.report.replay import Replay


def replay(
    folder: ResultsFolder,
    start: Annotated[
        int, typer.Option(min=2, metavar="SEEDS", help="Seeds that every comparison begins with.")
    ] = 3,
    most: Annotated[
        int | None,
        typer.Option(
            min=2, metavar="SEEDS", help="Seeds at most (default: those that the folder has)."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Replay a finished study as a race: what seeds, added one by one, would have decided."""
    import json
    from dataclasses import asdict

    from ktbench.records import KtbenchError
    from ktbench.report import scores
    from ktbench.report.analysis import Analysis
    from ktbench.report.replay import replay
    from ktbench.results import load_results

    if most is not None and most < start:
        raise KtbenchError(f"--most {most}: must not be below --start {start}")
    analysis = Analysis(load_results(Path(folder)))
    raced = replay(analysis, start, most)
    if as_json:
        print(json.dumps(asdict(raced), indent=1))
        return
    with scores.of(analysis.task.metric):
        _print(raced)


_MARKS = {"positive": "+", "negative": "−", "none": "", "unknown": "?"}


def _print(raced: Replay) -> None:
    from ktbench.cli.output import print_line, print_table
    from ktbench.report import numbers, scores

    gain = f"gain, {scores.unit()}"
    rows = [
        (
            one.student,
            one.method,
            f"{one.spent} of {one.seeds}",
            scores.gain(one.gain),
            f"{one.state} {_MARKS[one.sign]}".strip(),
            _MARKS[one.sign_of_all] or "undecided",
        )
        for one in raced.comparisons
    ]
    rule = raced.rule
    print_table(
        f"{numbers.count(len(rows), 'comparison')} with no transfer, "
        f"{rule.start} to {rule.most} seeds",
        ["student", "method", "seeds", gain, "race", "all seeds"],
        rows,
        whole=("seeds", gain, "race", "all seeds"),
    )
    share = raced.spent / raced.trainings
    print_line(
        f"{raced.spent} of {raced.trainings} trainings ({share:.0%}), "
        f"{numbers.seconds(raced.seconds_spent)} of {numbers.seconds(raced.seconds)} of training; "
        f"the same sign in {raced.agreeing} of {numbers.count(len(rows), 'comparison')}"
    )
