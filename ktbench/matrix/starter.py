"""A commented matrix to begin with."""

from __future__ import annotations

from importlib import resources


def starter() -> str:
    """A matrix that runs as it stands; its schema line names `matrix.schema.json` beside it."""
    return resources.files("ktbench.matrix").joinpath("starter.yaml").read_text(encoding="utf-8")
