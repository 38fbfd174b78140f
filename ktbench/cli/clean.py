"""`ktbench clean`: what lies where and how large, and its removal."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ktbench.cli.options import AsJson

if TYPE_CHECKING:
    from ktbench.api.cleaning import Kept

Folders = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="DIR…",
        help="Results folders, or folders of them (default: results, where it is there).",
        show_default=False,
    ),
]
Remove = Annotated[
    list[str] | None,
    typer.Option(
        metavar="results|work|teachers|outputs|caches",
        help="Remove everything of this kind that no run holds; repeatable.",
    ),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Remove without asking.")]


def clean(
    folders: Folders = None, remove: Remove = None, yes: Yes = False, as_json: AsJson = False
) -> None:
    """Show what ktbench keeps on disk and how large it is; remove what --remove names.

    Says what is going to be removed and asks, unless --yes is given. What a run in progress holds
    stays. The exit code is 0 if everything that was asked for is gone, and 1 if something stays.
    """
    from ktbench.api import cleaning
    from ktbench.catalogue import UnknownName

    for kind in remove or ():
        if kind not in cleaning.KINDS:
            raise UnknownName("kind", kind, cleaning.KINDS)
    default = [Path("results")] if Path("results").is_dir() else []
    listed = cleaning.kept(folders or default)
    asked = [one for one in listed if one.kind in (remove or ())]
    if as_json:
        rows = [vars(one) | {"path": str(one.path)} for one in listed]
        if not remove:
            print(json.dumps(rows, indent=1))
            return
    elif not remove:
        _print(listed)
        return
    raise typer.Exit(0 if _removed(asked, yes=yes) else 1)


def _print(listed: list[Kept]) -> None:
    from ktbench.api import cleaning
    from ktbench.cli.output import print_line, print_table
    from ktbench.system.files import cache_folder
    from ktbench.system.quantities import size_text

    rows = [
        [one.kind, str(one.path), size_text(one.bytes), "held" if one.held else ""]
        for one in listed
    ]
    total = sum(one.bytes for one in listed if one.kind != "work")  # it lies in the results
    print_table(f"{size_text(total)} in all; the cache is {cache_folder()}",
                ["kind", "where", "size", ""], rows)  # fmt: skip
    for kind in dict.fromkeys(one.kind for one in listed):
        print_line(f"--remove {kind}: {cleaning.ABOUT[kind]}")


def _removed(asked: list[Kept], *, yes: bool) -> bool:
    """Say what goes, ask, and remove it; return True where nothing stays."""
    from ktbench.api import cleaning
    from ktbench.cli.output import print_line
    from ktbench.records import KtbenchError
    from ktbench.system.quantities import size_text

    free = [one for one in asked if not one.held]
    for one in asked:
        stays = f"stays: {one.held}" if one.held else size_text(one.bytes)
        print_line(f"{one.kind}: {one.path}: {stays}")
    if not free:
        print_line("nothing to remove")
        return len(free) == len(asked)
    if not yes:
        if not sys.stdin.isatty():
            raise KtbenchError("nothing was removed: add --yes to remove this without being asked")
        if not typer.confirm(f"Remove {size_text(sum(one.bytes for one in free))}?"):
            return False
    reasons = [(one, cleaning.remove(one)) for one in free]
    for one, reason in reasons:
        if reason:
            print_line(f"stays: {one.path}: {reason}")
    gone = sum(one.bytes for one, reason in reasons if not reason)
    print_line(f"removed {size_text(gone)}")
    return len(free) == len(asked) and not any(reason for _, reason in reasons)
