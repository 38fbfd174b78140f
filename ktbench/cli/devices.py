"""`ktbench devices`: `check`, `setup` and `remove`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from ktbench.cli.options import AsJson, Profile, Python

if TYPE_CHECKING:
    from ktbench.devices._contract import Transport
    from ktbench.measure import Check

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Check devices, and set boards up.",
)

Host = Annotated[
    str, typer.Argument(metavar="HOST", help="Host name, or an alias of your SSH configuration.")
]
_Result = TypeVar("_Result")


@app.command()
def check(
    host: Annotated[
        str | None,
        typer.Argument(
            metavar="HOST",
            show_default=False,
            help="Host name or SSH alias (default: this machine).",
        ),
    ] = None,
    profile: Profile = None,
    matrix: Annotated[
        Path | None, typer.Option(metavar="MATRIX.yaml", help="Check the devices of a matrix.")
    ] = None,
    python: Python = "python3",
    as_json: AsJson = False,
) -> None:
    """Show what HOST or this machine is, what it can run and what it lacks."""
    from dataclasses import asdict

    from ktbench.measure import check as check_device
    from ktbench.records import KtbenchError

    if matrix is None:
        from ktbench.api.measuring import device_of

        devices = [device_of(host or "local", profile, python=python)]
    elif host is not None or profile is not None:
        given = f"--profile {profile}" if host is None else host
        raise KtbenchError(
            f"{given}: cannot be combined with --matrix, which names its own devices"
        )
    else:
        from ktbench.matrix import load
        from ktbench.matrix import plan as make_plan

        devices = list(make_plan(load(matrix)).devices)
    checks = [check_device(device) for device in devices]
    if as_json:
        print(json.dumps([asdict(checked) for checked in checks], indent=1))
    else:
        for checked in checks:
            _print_check(checked)
    raise typer.Exit(0 if all(checked.ok for checked in checks) else 1)


@app.command()
def setup(
    host: Host,
    python: Annotated[
        str,
        typer.Option(
            metavar="PYTHON", help="Interpreter on the board, outside a virtual environment."
        ),
    ] = "python3",
) -> None:
    """Install matching runtimes on a board over SSH; the board needs no internet and no pip."""
    from ktbench.boards import set_up

    ready = _over_ssh(host, python, lambda transport: set_up(transport, host, _print))
    for note in ready.notes:
        _print(f"note: {note}")
    _print(f"{host} is ready: {', '.join(ready.runtimes)}")
    _print(f"next: ktbench devices check {host}; undo: ktbench devices remove {host}")


@app.command()
def remove(host: Host) -> None:
    """Remove everything that ktbench installed on a board."""
    from ktbench.boards import take_down

    removed = _over_ssh(host, "python3", lambda transport: take_down(transport, host))
    _print(f"{host}: nothing of ktbench is left ({removed.bytes / 1e6:.0f} MB removed)")


def _print_check(checked: Check) -> None:
    from ktbench.cli.output import print_line

    state = "can be measured" if checked.ok else "cannot be measured"
    print_line(f"{checked.device} ({checked.title}): {state}")
    for label, lines in (
        ("problem", checked.problems),
        ("warning", checked.warnings),
        ("runtime", checked.runtimes),
        ("advice", checked.advice),
    ):
        for line in lines:
            print_line(f"  {label}: {line}")
    for facts in (checked.facts, checked.state):
        for key, value in (facts or {}).items():
            text = value if isinstance(value, str) else json.dumps(value)
            print_line(f"  {key}: {text}")


def _print(line: str) -> None:
    from ktbench.records import printable

    print(printable(line), flush=True)


def _over_ssh(host: str, python: str, action: Callable[[Transport], _Result]) -> _Result:
    from ktbench import catalogue
    from ktbench.devices._contract import DeviceError
    from ktbench.devices.transport import open_transport
    from ktbench.records import KtbenchError

    profile: Any = catalogue.device("ssh")
    try:
        transport = open_transport(profile, host, python)
    except DeviceError as error:
        raise KtbenchError(str(error)) from error
    try:
        return action(transport)
    finally:
        transport.close()
