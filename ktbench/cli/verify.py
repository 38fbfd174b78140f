"""`ktbench verify`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from ktbench.cli.options import AsJson, ResultsFolder


def verify(
    folder: ResultsFolder,
    partial: Annotated[
        bool,
        typer.Option("--partial", help="Allow missing files, for results without weights."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check that a results folder is unchanged and complete: records, weights, curves, artifacts.

    Prints one line per problem, with what to do. The exit code is 0 if there is none, 1 if there
    are problems, and 2 if DIR is not a results folder.
    """
    from ktbench.records import printable
    from ktbench.results import verify as verify_folder

    verification = verify_folder(folder, partial=partial)
    problems = verification.problems
    if as_json:
        names = ("results", "measurements", "unsealed")
        counts = {name: getattr(verification, name) for name in names}
        listed = [vars(problem) for problem in problems]
        print(json.dumps({"folder": str(folder), **counts, "problems": listed}, indent=1))
    else:
        for problem in problems:
            print(problem.line)
        results, measurements = verification.results, verification.measurements
        checked = f"{results} results and {measurements} measurements checked"
        if verification.unsealed:
            checked += f", {verification.unsealed} of the {results + measurements} without a digest"
            checked += " (written by an earlier version)"
        conclusion = f"{len(problems)} problems" if problems else "no problems"
        print(printable(f"{folder}: {checked}: {conclusion}"))
    raise typer.Exit(1 if problems else 0)
