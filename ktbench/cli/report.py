"""`ktbench report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ktbench.cli.options import ResultsFolder


def report(
    folder: ResultsFolder,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="DIR",
            help="Folder to write to (default: report/ in the results folder, NAME-report/ beside "
            "NAME.ktb)",
        ),
    ] = None,
) -> None:
    """Rewrite the report of a results folder, finished or not."""
    from ktbench.cli.output import print_line

    print_line(str(write_report(folder, output)))


def write_report(folder: Path, output: Path | None = None) -> Path:
    """Write the report; its packages are loaded only when there is something to report."""
    from ktbench.report import write_report

    return write_report(folder, output)
