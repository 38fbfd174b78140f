"""Matrices to begin with: a commented starter, and those that ship with ktbench."""

from __future__ import annotations

from importlib import resources

from ktbench.catalogue import nearest
from ktbench.records import KtbenchError

SCHEMA_LINE = "# yaml-language-server: $schema=matrix.schema.json\n"
"""The line that tells editors to check a matrix with the schema beside it."""


def starter(name: str | None = None) -> str:
    """Return the text of a shipped matrix, by default of a commented one that runs as it stands.

    Its first line names `matrix.schema.json` beside it. Raises KtbenchError for an unknown name.
    """
    if name is None:
        return resources.files("ktbench.matrix").joinpath("starter.yaml").read_text("utf-8")
    if name not in shipped():
        near = nearest(name, shipped())
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise KtbenchError(f"unknown matrix {name!r}: {hint}known are {', '.join(shipped())}")
    text = resources.files("ktbench").joinpath("matrices", f"{name}.yaml").read_text("utf-8")
    return text if text.startswith(SCHEMA_LINE) else SCHEMA_LINE + text


def shipped() -> list[str]:
    """Return the names of the matrices that ship with ktbench."""
    folder = resources.files("ktbench").joinpath("matrices")
    names = (entry.name for entry in folder.iterdir())
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))
