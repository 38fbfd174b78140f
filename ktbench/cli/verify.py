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
        typer.Option(
            "--partial", help="Files that are missing are no fault, as of results without weights."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check that a results folder is what was written: records, weights, curves, artifacts.

    One line per thing that does not hold, with what to do. The exit code is 0 where all holds, 1
    where something does not, 2 where DIR is no results folder.
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
            checked += f", {verification.unsealed} of the {results + measurements} written before"
            checked += " records had a digest"
        conclusion = f"{len(problems)} problems" if problems else "everything holds"
        print(printable(f"{folder}: {checked}: {conclusion}"))
    raise typer.Exit(1 if problems else 0)
