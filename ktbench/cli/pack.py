"""`ktbench pack`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def pack(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="A results folder.", show_default=False)
    ],
    file: Annotated[
        Path, typer.Argument(metavar="FILE.ktb", help="The file to write.", show_default=False)
    ],
    weights: Annotated[
        bool, typer.Option("--weights", help="Pack weights and exported students as well.")
    ] = False,
    as_is: Annotated[
        bool, typer.Option("--as-is", help="Pack even if `ktbench verify` finds problems.")
    ] = False,
) -> None:
    """Pack a results folder into one file that report, compare, verify and load_results read.

    The same folder gives the same bytes. The report is left out; `ktbench report FILE.ktb` writes
    it again. The exit code is 1 if the folder has problems and nothing was packed, and 2 if a run
    is using it or DIR is not a results folder.
    """
    from ktbench.cli.output import print_line
    from ktbench.results import pack as pack_folder

    packed = pack_folder(folder, file, networks=weights, as_is=as_is)
    for problem in packed.problems:
        print_line(problem.line)
    if not packed.files:
        print_line(f"{folder}: nothing was packed: fix this, or pack it with --as-is")
        raise typer.Exit(1)
    print_line(f"{file}: {packed.files:,} files in {packed.bytes:,} bytes")
