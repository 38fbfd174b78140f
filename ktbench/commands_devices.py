"""`ktbench devices setup` and `ktbench devices remove`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

if TYPE_CHECKING:
    from devices._contract import Transport

Host = Annotated[
    str, typer.Argument(metavar="HOST", help="As ssh takes it: a name, or an alias of its file.")
]
Python = Annotated[
    str, typer.Option(metavar="PYTHON", help="Interpreter on the board; none of a virtualenv.")
]
_Came = TypeVar("_Came")


def add_to(app: typer.Typer) -> None:
    """Add the commands to those of `ktbench devices`."""
    app.command("setup")(setup)
    app.command("remove")(remove)


def setup(host: Host, python: Python = "python3") -> None:
    """Install runtimes that fit a board over SSH; it needs neither internet nor pip."""
    from ktbench.boards import set_up

    ready = _over_ssh(host, python, lambda way: set_up(way, host, _tell))
    for note in ready.notes:
        print(f"note: {note}")
    print(f"{host} is ready: {', '.join(ready.runtimes)}")
    print(f"next: ktbench devices check --host {host}; undo: ktbench devices remove {host}")


def remove(host: Host) -> None:
    """Remove everything that ktbench has put on a board."""
    from ktbench.boards import take_down

    removed = _over_ssh(host, "python3", lambda way: take_down(way, host))
    print(f"{host}: nothing of ktbench is left ({removed.bytes / 1e6:.0f} MB removed)")


def _tell(line: str) -> None:
    print(line, flush=True)


def _over_ssh(host: str, python: str, do: Callable[[Transport], _Came]) -> _Came:
    from devices._contract import DeviceError
    from devices.transport import open_transport
    from ktbench import catalogue
    from ktbench.records import KtbenchError

    profile: Any = catalogue.device("ssh")
    try:
        transport = open_transport(profile, host, python)
    except DeviceError as error:
        raise KtbenchError(str(error)) from error
    try:
        return do(transport)
    finally:
        transport.close()
