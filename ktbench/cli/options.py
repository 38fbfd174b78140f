"""Arguments and options that several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

MatrixFile = Annotated[Path, typer.Argument(metavar="MATRIX.yaml", show_default=False)]
ResultsFolder = Annotated[
    Path,
    typer.Argument(
        metavar="DIR", help="A results folder, or a packed one (FILE.ktb).", show_default=False
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Python = Annotated[
    str, typer.Option(metavar="PYTHON", help="Interpreter on the device that has the runtime.")
]
Profile = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Profile of the host, from `ktbench list devices`: it sets the rules to check.",
    ),
]
