"""`ktbench verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def add_to(app: typer.Typer) -> None:
    """Add the command to those of `ktbench`."""
    app.command("verify")(verify)


def verify(
    folder: Annotated[Path, typer.Argument(metavar="DIR", show_default=False)],
    partial: Annotated[
        bool,
        typer.Option(
            "--partial", help="Files that are missing are no fault, as of results without weights."
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Check that a results folder is what was written: records, weights, curves, artifacts.

    One line per thing that does not hold, with what to do. The exit code is 0 where all holds, 1
    where something does not, 2 where DIR is no results folder.
    """
    import json

    from ktbench.records import printable
    from ktbench.results.verification import verify as verify_folder

    found = verify_folder(folder, partial=partial)
    if as_json:
        told = [vars(problem) for problem in found.problems]
        counts = {name: getattr(found, name) for name in ("results", "measurements", "unsealed")}
        print(json.dumps({"folder": str(folder), **counts, "problems": told}, indent=1))
    else:
        for problem in found.problems:
            print(problem.line)
        records = found.results + found.measurements
        counted = f"{found.results} results and {found.measurements} measurements checked"
        if found.unsealed:
            counted += f", {found.unsealed} of the {records} written before records had a digest"
        ends = f"{len(found.problems)} problems" if found.problems else "everything holds"
        print(printable(f"{folder}: {counted}: {ends}"))
    raise typer.Exit(1 if found.problems else 0)
