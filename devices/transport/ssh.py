"""A board over the system's OpenSSH client: its configuration, keys, jump hosts and host keys.

The command that runs on the board is one constant; names, paths and the interpreter travel as
JSON on its standard input, so no shell ever sees them. `KTBENCH_SSH_CONFIG` names a configuration
file to use in place of the user's own (`ssh -F`).
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Generator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ktbench.devices._contract import Blob, DeviceError, host_objection
from ktbench.devices.transport._exchange import LOADER, Exchange, last_line

CONFIG_VARIABLE = "KTBENCH_SSH_CONFIG"
_SCRIPT = f"python3 -I -c '{LOADER}'; exit $?".replace("'", "'\\''")
COMMAND = f"sh -c '{_SCRIPT}'"
"""The one command that a board's login shell, of whatever kind, gets to see.

The inner shell turns the signal that an agent died of into an exit code: of a command that a signal
ended, ssh says no more than of a broken connection.
"""

_OPTIONS = {
    "BatchMode": "yes",  # never ask: a password or an unknown host key is an error
    "ConnectTimeout": "15",
    "ServerAliveInterval": "10",  # a board that is unplugged is noticed after 30 s
    "ServerAliveCountMax": "3",
    "ForwardAgent": "no",
    "ForwardX11": "no",
    "ClearAllForwardings": "yes",
    "RemoteCommand": "none",
    "RequestTTY": "no",
}
_SHARED = {
    "ControlMaster": "auto",
    "ControlPersist": "60",  # what a killed program leaves behind ends by itself
}
_LONGEST_SOCKET = 80
"""Characters of a socket's path: the kernel takes 108, of which ssh needs some for itself."""


def check_host(host: str | None) -> str:
    """Return the host unchanged; DeviceError if ssh could take it for something else."""
    if not host:
        raise DeviceError("no host is given: name one, as ssh takes it (`host: pi` or `me@pi`)")
    if (reason := host_objection(host)) is not None:
        raise DeviceError(reason)
    return host


def command(host: str, control: str | None = None) -> list[str]:
    """The client's argument list; `control` is the socket of a connection to share."""
    return [*_client(control), "-T", "--", host, COMMAND]


def _client(control: str | None) -> list[str]:
    config = os.environ.get(CONFIG_VARIABLE)
    chosen = _OPTIONS if control is None else {**_OPTIONS, **_SHARED, "ControlPath": control}
    options = [part for key, value in chosen.items() for part in ("-o", f"{key}={value}")]
    return ["ssh", *(["-F", config] if config else []), *options]


class SshTransport:
    """One SSH connection for all tasks, as logging in takes longer than many a task."""

    def __init__(self, host: str | None, python: str | None = None) -> None:
        self._host = check_host(host)
        self._folder = tempfile.TemporaryDirectory(prefix="ktbench-")
        control = f"{self._folder.name}/ssh".replace("%", "%%")
        self._control = control if len(control) <= _LONGEST_SOCKET else None
        self._exchange = Exchange(
            command(self._host, self._control), root=None, python=python, explain=self._explain
        )

    def run(self, task: dict[str, Any], blobs: Sequence[Blob], limit_s: float) -> dict[str, Any]:
        """See `Transport.run`."""
        try:
            return self._exchange.run(task, blobs, limit_s)
        except DeviceError as error:
            if error.lost:  # another try begins with a connection of its own
                self._hang_up()
            raise

    def series(
        self, task: dict[str, Any], blobs: Sequence[Blob], limits: Sequence[float]
    ) -> Generator[dict[str, Any] | DeviceError, None, None]:
        """See `Transport.series`."""
        try:
            yield from self._exchange.series(task, blobs, limits)
        except DeviceError as error:
            if error.lost:
                self._hang_up()
            raise

    def close(self) -> None:
        """End the connection."""
        self._hang_up()
        self._folder.cleanup()

    def _hang_up(self) -> None:
        if self._control is None or not Path(self._folder.name, "ssh").exists():
            return
        with suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run(
                [*_client(self._control), "-O", "exit", "--", self._host],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=10,
            )

    def _explain(self, code: int, errors: str) -> DeviceError | None:
        """Explain a missing answer from the words of shell, interpreter or ssh, with a remedy."""
        if code == 127 or "python3: not found" in errors:
            return DeviceError(f"{self._host} has no python3: install Python 3.6 or later there")
        lost = False
        table: tuple[tuple[str, str], ...] = _FAILED_THERE
        if code == 255:
            table, lost = _NO_LOGIN, not any(words in errors for words, _ in _REFUSED)
        for words, meaning in table:
            if words in errors:
                reason = meaning.format(host=self._host, words=last_line(errors))
                return DeviceError(reason, lost=lost)
        if code != 255:
            return None
        reason = last_line(errors) or "the connection broke"
        return DeviceError(f"cannot reach {self._host}: {reason}", lost=True)


_OLD = "{host}'s interpreter is older than Python 3.6 ({words}): install a newer one, or name it"
_FAILED_THERE = (
    ("Unknown option: -I", f"{_OLD} in `python`"),
    ("SyntaxError", f"{_OLD} in `python`"),
    ("No module named typing", f"{_OLD} in `python`"),
    (
        "not available",
        "{host} lets this login run nothing ({words}): use an account that has a shell",
    ),
)
"""Reasons by a text of the answer, for a connection that itself held."""
_REFUSED = (
    (
        "REMOTE HOST IDENTIFICATION HAS CHANGED",
        "{host} shows another host key than the one known: it may be another machine; if it was"
        " set up again, remove the old key with `ssh-keygen -R {host}` and log in once by hand",
    ),
    (
        "Host key verification failed",
        "the host key of {host} is not known or not the right one: log in once by hand"
        " (`ssh {host}`) and compare it",
    ),
    (
        "Permission denied",
        "{host} refuses the login ({words}): a key must work without a password, try"
        " `ssh -o BatchMode=yes {host} true`",
    ),
    (
        "Too many authentication failures",
        "{host} refuses the login ({words}): name the one key for it in your SSH configuration"
        " (`IdentityFile`, `IdentitiesOnly yes`)",
    ),
)
"""Trying again does not help."""
_NO_LOGIN = (
    *_REFUSED,
    (
        "Could not resolve hostname",
        "cannot reach {host}: {words}: no such name is known here; give it a `HostName` in your SSH"
        " configuration, or check the network",
    ),
    (
        "Connection refused",
        "cannot reach {host}: {words}: nothing listens there; start its SSH server, or check `Port`"
        " in your SSH configuration",
    ),
    (
        "timed out",
        "cannot reach {host}: {words}: switch it on, or check the address and the network",
    ),
    (
        "No route to host",
        "cannot reach {host}: {words}: switch it on, or check the address and the network",
    ),
)
