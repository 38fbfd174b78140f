"""The `ktbench` program: its commands, and how signals and errors end it."""

from __future__ import annotations

import importlib
import io
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from ktbench.cli.stopped import Stopped, signals_raised
from ktbench.system.installation import VERSION

_COMMANDS = {
    "run": "run:run",
    "plan": "plan:plan",
    "report": "report:report",
    "best": "best:best",
    "compare": "compare:compare",
    "replay": "replay:replay",
    "verify": "verify:verify",
    "pack": "pack:pack",
    "clean": "clean:clean",
    "measure": "measure:measure",
    "list": "listing:list_items",
    "inspect": "inspect:inspect",
    "init": "init:init",
    "schema": "init:schema",
    "devices": "devices:app",
    "teacher": "teacher:app",
    "blockwise": "blockwise:app",
}
"""The module of `ktbench.cli` that holds a command, and its function or its group there."""


class _LazyGroup(TyperGroup):
    """Imports the module of a command when that command is asked for."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.commands = dict.fromkeys(_COMMANDS)  # type: ignore[assignment]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """See `TyperGroup`."""
        if cmd_name not in _COMMANDS:
            return None
        module, _, name = _COMMANDS[cmd_name].partition(":")
        item = getattr(importlib.import_module(f"ktbench.cli.{module}"), name)
        if not isinstance(item, typer.Typer):
            function, item = item, typer.Typer(add_completion=False)
            item.command(cmd_name)(function)
        command = get_command(item)
        command.name = cmd_name
        return command


app = typer.Typer(
    name="ktbench",
    cls=_LazyGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Which knowledge-transfer technique gives the best small network on this edge device, "
    "and at what training cost? Start with `ktbench run matrix.yaml`.",
)


def main() -> None:
    """Run a command; an error is one line on standard error and exit code 2."""
    _escape_unprintable()
    with signals_raised():
        try:
            app()
        except Stopped as stopped:
            print(f"ktbench: stopped{stopped.advice}", file=sys.stderr)
            sys.exit(stopped.exit_code)
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            _exit_with(f"{where}{error.strerror or error}")
        except Exception as error:
            from ktbench.records import KtbenchError

            if not isinstance(error, KtbenchError):
                raise
            _exit_with(str(error))


def _exit_with(error: str) -> None:
    from ktbench.records import printable

    print(printable(f"ktbench: {error}"), file=sys.stderr)
    sys.exit(2)


def _escape_unprintable() -> None:
    """Write characters that a terminal's encoding lacks as escapes, not as a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _print_version(requested: bool) -> None:
    if requested:
        print(f"ktbench {VERSION}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Shared options of every command."""
