"""`ktbench init` and `ktbench schema`: what a user's own matrix starts from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def init(
    path: Annotated[Path, typer.Argument(metavar="MATRIX.yaml")] = Path("matrix.yaml"),
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="NAME",
            help="Copy a shipped matrix, such as hpdc18-small.",
        ),
    ] = None,
) -> None:
    """Write a commented starter matrix, and the schema with which editors check it."""
    from ktbench.cli.output import print_line
    from ktbench.matrix import starter
    from ktbench.records import KtbenchError
    from ktbench.system.files import write_atomically

    if path.exists():
        raise KtbenchError(f"{path}: exists already: name another file")
    text = starter(source)
    schema_path = path.with_name("matrix.schema.json")
    write_atomically(schema_path, _schema_text())
    write_atomically(path, text)
    print_line(f"wrote {path} and {schema_path}; next: ktbench run {path}")


def schema() -> None:
    """Print the JSON Schema of matrix files."""
    print(_schema_text(), end="")


def _schema_text() -> str:
    import json

    from ktbench.matrix import json_schema

    return json.dumps(json_schema(), indent=2) + "\n"
