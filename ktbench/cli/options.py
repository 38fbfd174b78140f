"""Arguments and options that several commands take, and the device that some of them name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ktbench.records import DeviceSpec

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


def device_of(name: str, profile: str | None, **settings: Any) -> DeviceSpec:
    """Return this machine for `local`, else a board over SSH, of the profile where one is given.

    Raises KtbenchError for an unknown profile or setting, and for a profile of another kind.
    """
    from pydantic import ValidationError

    from ktbench import catalogue
    from ktbench.matrix.file_problems import phrase
    from ktbench.records import DeviceSpec, KtbenchError

    is_local = name == "local"
    profile = profile or ("local" if is_local else "ssh")
    if (catalogue.device(profile).transport == "ssh") is is_local:
        advice = "is a board over SSH: name its host" if is_local else "takes no host: leave it out"
        raise KtbenchError(f"--profile {profile}: {advice}")
    try:
        return DeviceSpec(
            profile=profile,
            name=profile if is_local else name,
            host=None if is_local else name,
            **settings,
        )
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        setting = str(first["loc"][0]).replace("_", "-")
        option = name if setting in ("name", "host") else f"--{setting} {first['input']}"
        expected = first.get("ctx", {}).get("expected")
        reason = f"must be {expected}" if expected else phrase(first)
        raise KtbenchError(f"{option}: {reason}") from error
