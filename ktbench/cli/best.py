"""`ktbench best`: the file to take from finished results, within limits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ktbench.cli.options import AsJson, ResultsFolder

Device = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Device of the matrix whose latencies count (default: the only one that measured)",
    ),
]
P90 = Annotated[
    str | None,
    typer.Option("--p90", metavar="TIME", help="Most time of one inference in ten, such as 8ms."),
]
Size = Annotated[
    str | None, typer.Option(metavar="SIZE", help="Most bytes of the file, such as 500kB.")
]
Accuracy = Annotated[
    str | None,
    typer.Option(
        metavar="PERCENT", help="Least validation accuracy, or another metric's figure: 85."
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        metavar="FOLDER",
        help="New folder to copy the file, its sidecar, its weights and run.py to.",
    ),
]


def best(
    folder: ResultsFolder,
    device: Device = None,
    p90: P90 = None,
    size: Size = None,
    accuracy: Accuracy = None,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Name the exported file to take within limits, how good it is, and how sure that is.

    The best on validation is taken among the files that hold the limits; the test set then says how
    good it is. The exit code is 0 if it holds them, 1 if a limit is missed by the bound of its
    interval only, and 2 if no file holds them.
    """
    from ktbench.api.results import load_results
    from ktbench.cli.output import print_line

    answer = load_results(folder).best(
        device=device, p90=p90, size=size, accuracy=accuracy, out=out
    )
    if as_json:
        copied = {"copied": [str(path) for path in answer.files]} if answer.files else {}
        print(json.dumps(answer.as_json() | copied, indent=1, allow_nan=False))
    else:
        for line in repr(answer).splitlines():
            print_line(line)
        for path in answer.files:
            print_line(f"  wrote {path}")
    raise typer.Exit(1 if answer.choice.file.tier else 0)
