"""The `ktbench` program: its commands, and how signals and errors end it."""

from __future__ import annotations

import io
import sys
from typing import Annotated

import typer

from ktbench.cli import (
    blockwise,
    compare,
    devices,
    init,
    listing,
    measure,
    pack,
    plan,
    report,
    run,
    teacher,
    verify,
)
from ktbench.cli.stopped import Stopped, signals_raised
from ktbench.system.installation import VERSION

app = typer.Typer(
    name="ktbench",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Which knowledge-transfer technique gives the best small network on this edge device, "
    "and at what training cost? Start with `ktbench run matrix.yaml`.",
)
app.command("run")(run.run)
app.command("plan")(plan.plan)
app.command("report")(report.report)
app.command("compare")(compare.compare)
app.command("verify")(verify.verify)
app.command("pack")(pack.pack)
app.command("measure")(measure.measure)
app.command("list")(listing.list_items)
app.command("init")(init.init)
app.command("schema")(init.schema)
app.add_typer(devices.app, name="devices")
app.add_typer(teacher.app, name="teacher")
app.add_typer(blockwise.app, name="blockwise")


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
