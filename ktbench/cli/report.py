"""`ktbench report`."""

from __future__ import annotations

from pathlib import Path

from ktbench.cli.options import ResultsFolder


def report(folder: ResultsFolder) -> None:
    """Write the report of a results folder again, finished or not."""
    from ktbench.cli.output import print_line

    print_line(str(write_report(folder)))


def write_report(folder: Path) -> Path:
    """Write the report; its packages are loaded only when there is something to report."""
    from ktbench.report import write_report

    return write_report(folder)
