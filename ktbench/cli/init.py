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
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            metavar="PATH",
            help="Write a matrix for your own data: a table of texts or images (parquet, CSV, TSV, "
            "JSON lines), a folder of such tables, or a folder of images.",
        ),
    ] = None,
) -> None:
    """Write a commented starter matrix, and the schema with which editors check it."""
    from ktbench.cli.output import print_line
    from ktbench.matrix import starter, starter_for
    from ktbench.records import KtbenchError
    from ktbench.system.files import write_atomically

    if path.exists():
        raise KtbenchError(f"{path}: exists already: name another file")
    if data is not None and source is not None:
        raise KtbenchError("--data: cannot be combined with --from")
    text, problem = (starter(source), None) if data is None else starter_for(data, path)
    schema_path = path.with_name("matrix.schema.json")
    write_atomically(schema_path, _schema_text())
    write_atomically(path, text)
    following = f"ktbench {'run' if data is None else 'plan'} {path}"
    if problem is not None:
        following = f"{problem}; then {following}"
    print_line(f"wrote {path} and {schema_path}; next: {following}")


def schema() -> None:
    """Print the JSON Schema of matrix files."""
    print(_schema_text(), end="")


def _schema_text() -> str:
    import json

    from ktbench.matrix import json_schema

    return json.dumps(json_schema(), indent=2) + "\n"
