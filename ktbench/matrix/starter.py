"""Matrices to begin with: commented starters, and those that ship with ktbench."""

from __future__ import annotations

import json
import os
import re
from importlib import resources
from pathlib import Path

from ktbench.catalogue import nearest
from ktbench.data import describe, holds_images
from ktbench.records import DataSpec, Item, KtbenchError

SCHEMA_LINE = "# yaml-language-server: $schema=matrix.schema.json\n"
"""The line that tells editors to check a matrix with the schema beside it."""
_DATA = re.compile(r"(?m)^data:\n(  .*\n)+")


def starter(name: str | None = None) -> str:
    """Return the text of a shipped matrix, by default of a commented one that runs as it stands.

    Its first line names `matrix.schema.json` beside it. Raises KtbenchError for an unknown name.
    """
    if name is None:
        return _template("starter.yaml")
    if name not in shipped():
        near = nearest(name, shipped())
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise KtbenchError(f"unknown matrix {name!r}: {hint}known are {', '.join(shipped())}")
    text = resources.files("ktbench").joinpath("matrices", f"{name}.yaml").read_text("utf-8")
    return text if text.startswith(SCHEMA_LINE) else SCHEMA_LINE + text


def starter_for(data: Path, matrix: Path) -> tuple[str, str | None]:
    """Return the text of a matrix for a user's data, and what is still to be set in it.

    `data` is a folder of images or of tables, or one table; `matrix` is the file that the text is
    for. Raises KtbenchError where `data` is not there or cannot be read.
    """
    path = os.path.relpath(data, matrix.parent) if not data.is_absolute() else str(data)
    spec = DataSpec(source="parquet", path=str(data.absolute()))
    source = "parquet"
    images = holds_images(spec, Path())
    if images is None:
        source, images = "folder", True
    lines = [f"  source: {source}", f"  path: {json.dumps(path, ensure_ascii=False)}"]
    task = None if images else Item(name="text_classification")
    spec = spec.model_copy(update={"source": source, **({"task": task} if task else {})})
    problem = None
    try:
        describe(spec, Path())
    except KtbenchError as error:
        problem = str(error)
        lines.append(f"  # to be set: {problem}")
    name = re.sub(r"[^\w.-]+", "-", matrix.stem).strip("-.") or "starter"
    if not images:
        text = _template("starter_texts.yaml").replace("DATA\n", "\n".join([*lines, *_TEXTS, ""]))
        return text.replace("NAME", name), problem
    text = _DATA.sub(lambda _: "\n".join(["data:", *lines, ""]), _template("starter.yaml"))
    return text.replace("name: starter", f"name: {name}"), problem


_TEXTS = (
    "  task:",
    "    text_classification:",
    "      length: 64           # word pieces that a network reads of a text",
    "      vocabulary: 4000     # word pieces that are learnt from the training texts",
    "      # text_column: text            # columns are chosen where there is no doubt",
    "      # text_pair_column: text_pair  # where a sample is two texts",
    "  # label_column: label",
    "",
)


def _template(name: str) -> str:
    return resources.files("ktbench.matrix").joinpath(name).read_text("utf-8")


def shipped() -> list[str]:
    """Return the names of the matrices that ship with ktbench."""
    folder = resources.files("ktbench").joinpath("matrices")
    names = (entry.name for entry in folder.iterdir())
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))
