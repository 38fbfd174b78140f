"""`ktbench compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def compare(
    before: Annotated[Path, typer.Argument(metavar="A", help="A results folder, or a packed one.")],
    after: Annotated[
        Path, typer.Argument(metavar="B", help="The results folder to compare with A.")
    ],
    accuracy_drop: Annotated[
        float,
        typer.Option(
            min=0,
            metavar="POINTS",
            help="Allow clear losses of test accuracy (or another metric) up to this.",
        ),
    ] = 0.0,
    latency_rise: Annotated[
        float,
        typer.Option(min=0, metavar="PERCENT", help="Allow clear rises of latency up to this."),
    ] = 10.0,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write everything as JSON.")
    ] = None,
    markdown_file: Annotated[
        Path | None,
        typer.Option("--markdown", metavar="FILE", help="Write the tables as Markdown."),
    ] = None,
) -> None:
    """Show what changed from one results folder to another, with intervals.

    The exit code is 0 where nothing got clearly worse than is allowed, 1 where something did or a
    cell that was trained in A failed in B, 2 where the two cannot be compared.
    """
    import json

    from ktbench.compare import Limits
    from ktbench.compare import compare as compare_folders
    from ktbench.compare.rendering import markdown, print_comparison
    from ktbench.system.files import write_atomically

    comparison = compare_folders(before, after, Limits(accuracy_drop, latency_rise))
    if json_file is not None:
        write_atomically(json_file, json.dumps(comparison.as_json(), indent=1) + "\n")
    if markdown_file is not None:
        write_atomically(markdown_file, markdown(comparison))
    print_comparison(comparison)
    raise typer.Exit(1 if comparison.regressions else 0)
