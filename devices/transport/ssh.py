"""A board over the system's OpenSSH client: its configuration, keys, jump hosts and host keys.

The command that runs on the board is one constant; names, paths and the interpreter travel as
JSON on its standard input, so no shell ever sees them. `KTBENCH_SSH_CONFIG` names a configuration
file to use in place of the user's own (`ssh -F`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Any

from devices._contract import Blob, DeviceError
from devices.transport._exchange import LOADER, Exchange, last_line

CONFIG_VARIABLE = "KTBENCH_SSH_CONFIG"
COMMAND = f"python3 -I -c '{LOADER}'"
"""All that a board's login shell ever gets to see."""

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
_HOST = re.compile(r"(?:[A-Za-z0-9_.+-]+@)?[A-Za-z0-9_.:%\[\]][A-Za-z0-9_.:%\[\]-]*")


def check_host(host: str | None) -> str:
    """The host as it was given; DeviceError for one that ssh could take for something else."""
    if not host:
        raise DeviceError("no host is given: name one, as ssh takes it (`host: pi` or `me@pi`)")
    if host.startswith("-") or not _HOST.fullmatch(host):
        raise DeviceError(
            f"{host!r} is no host name: use letters, digits and . _ - : or an alias of your"
            " SSH configuration"
        )
    return host


def command(host: str) -> list[str]:
    """The client's argument list."""
    config = os.environ.get(CONFIG_VARIABLE)
    options = [part for key, value in _OPTIONS.items() for part in ("-o", f"{key}={value}")]
    return ["ssh", *(["-F", config] if config else []), *options, "-T", "--", host, COMMAND]


class SshTransport:
    """A connection per task; ssh's own `ControlMaster` makes them share one."""

    def __init__(self, host: str | None, python: str | None = None) -> None:
        self._host = check_host(host)
        self._exchange = Exchange(
            command(self._host), root=None, python=python, explain=self._explain
        )

    def run(self, task: dict[str, Any], blobs: Sequence[Blob], limit_s: float) -> dict[str, Any]:
        """See `Transport.run`."""
        return self._exchange.run(task, blobs, limit_s)

    def close(self) -> None:
        """Nothing is held between tasks."""

    def _explain(self, code: int, errors: str) -> DeviceError | None:
        if code == 127 or "python3: not found" in errors:
            return DeviceError(f"{self._host} has no python3: install Python 3.6 or later there")
        if code != 255:
            return None
        for words, meaning in _MEANINGS:
            if words in errors:
                return DeviceError(meaning.format(host=self._host, words=last_line(errors)))
        said = last_line(errors) or "the connection broke"
        return DeviceError(f"cannot reach {self._host}: {said}", lost=True)


_MEANINGS = (
    (
        "REMOTE HOST IDENTIFICATION HAS CHANGED",
        "{host} shows another host key than the one known: it may be another machine; if it was"
        " set up anew, remove the old key with `ssh-keygen -R {host}` and log in once by hand",
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
)
