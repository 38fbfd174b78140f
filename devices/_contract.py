"""The contract of devices: a file of this folder defines `PROFILE: Profile`, which is pure data.

Addresses come from the user's SSH configuration or the matrix, never from here. A `Transport`
(`devices/transport/`) reaches a device: it carries files and a task to the agent and brings the
answer back.
"""

from __future__ import annotations

import getpass
import hashlib
import re
import socket
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol


@dataclass(frozen=True, slots=True)
class Profile:
    """A kind of board: the way to reach it, what it can run, and which sensors it has."""

    title: str
    transport: Literal["local", "ssh", "fake"]
    architectures: tuple[str, ...]
    """Values of `platform.machine()` on the board; empty accepts any."""
    runtimes: tuple[str, ...] = ("onnxruntime", "tflite")
    """Names of `devices/agent/runtimes/`, tried in this order for a format."""
    sensors: tuple[str, ...] = ()
    """Keys of the agent's `state` that this kind of board should have."""
    rails: tuple[str, ...] = ()
    """Power rails that the board's sensors name; which of them add up to the whole board is in
    `devices/agent/power.py`."""
    power_modes: tuple[str, ...] = ()
    """Names that `nvpmodel -q` may answer, the one of number 0 first."""
    pythons: tuple[str, ...] = ()
    """Versions that the board's systems come with, oldest first; empty if any is possible."""
    max_opset: int | None = None
    """The newest ONNX opset that the board's runtime reads; None where it reads any of today's."""
    setup: tuple[tuple[str, ...], ...] = ()
    """Commands, as argument lists, that make figures steadier; ktbench shows, never runs them."""
    restore: tuple[tuple[str, ...], ...] = ()
    """Commands that undo `setup`."""
    start_below_c: float | None = None
    """Measuring waits until the hottest sensor is below this many degrees Celsius."""
    emulated: bool = False
    """True if its figures say nothing about a real board."""


_HOST = re.compile(r"(?:[A-Za-z0-9_.+-]+@)?[A-Za-z0-9_.:%\[\]][A-Za-z0-9_.:%\[\]-]*")
_WITH_PORT = re.compile(r"(?P<host>(?:[^@]*@)?(?:[^:@]+|\[[^\]]*\])):(?P<port>[0-9]*)")


def host_objection(host: str) -> str | None:
    """Explain why ssh cannot take a text for a host and what to write instead; None if it can."""
    shown = "".join(c if c.isprintable() else "?" for c in host[:80])
    if "://" in host:
        return (
            f"{shown!r} is a URL: give the host alone, and its port and user in your SSH"
            " configuration"
        )
    if match := _WITH_PORT.fullmatch(host):
        name = "".join(c if c.isprintable() else "?" for c in match["host"][:80])
        return (
            f"{shown!r} names a port: give {name!r} alone, with `Port {match['port'][:6] or 22}`"
            " for it in your SSH configuration (~/.ssh/config)"
        )
    if host.startswith("-") or not _HOST.fullmatch(host):
        return (
            f"{shown!r} is not a valid host name: use letters, digits and . _ - : or an alias of"
            " your SSH configuration"
        )
    return None


class DeviceError(Exception):
    """The reason why a device gave no answer, in one line for the user.

    `lost` means that it was not reached or that the connection broke: trying again may help, and
    so may leaving the device's other tasks for later.
    """

    def __init__(self, reason: str, *, lost: bool = False) -> None:
        super().__init__(reason)
        self.lost = lost


class AnswerError(DeviceError):
    """An agent that ended without a valid answer, so that its task is not done.

    The device itself is reachable and may do other tasks.
    """


@dataclass(frozen=True, slots=True)
class Blob:
    """A file that a task needs; the device knows it by its SHA-256 alone."""

    digest: str
    data: bytes

    @classmethod
    def of(cls, data: bytes) -> Blob:
        """Return the blob of these bytes."""
        return cls(hashlib.sha256(data).hexdigest(), data)

    @classmethod
    def read(cls, path: Path) -> Blob:
        """Return the blob of a file's content; raises OSError if it cannot be read."""
        return cls.of(path.read_bytes())


@dataclass(frozen=True, slots=True)
class Lease:
    """A claim on a board: other users are kept away during a task and for `seconds` after it."""

    owner: str
    """The same for runs that need not wait for each other: those of one results folder."""
    holder: str
    """The name that other users are shown."""
    seconds: float = 60.0

    @classmethod
    def of(cls, folder: Path) -> Lease:
        """Return the lease for a folder of this machine and this user."""
        try:
            user = getpass.getuser()
        except (KeyError, OSError):  # an account without a name, as in some containers
            user = "somebody"
        name = f"{user}@{socket.gethostname()}: {folder.absolute()}"
        return cls(name, name)

    def task(self) -> dict[str, Any]:
        """Return the fields that a task carries."""
        return {"owner": self.owner, "holder": self.holder, "seconds": self.seconds}


class Transport(Protocol):
    """A connection to a device, where every task runs in a process of its own."""

    def run(self, task: dict[str, Any], blobs: Sequence[Blob], limit_s: float) -> dict[str, Any]:
        """Return the agent's answer to a task; raises DeviceError if none comes within `limit_s`.

        The device is sent the blobs that it does not hold yet.
        """

    def series(
        self, task: dict[str, Any], blobs: Sequence[Blob], limits: Sequence[float]
    ) -> Generator[dict[str, Any] | DeviceError, None, None]:
        """Yield the answers to `task["tasks"]`, or the error of each, in order and as they arrive.

        Each task runs in a process of its own, for at most its limit in seconds. Raises DeviceError
        if the device is lost or takes none of the tasks, and AnswerError if the next answer is
        malformed in a way that leaves no point to continue from.
        """

    def close(self) -> None:
        """Release what the transport holds on this machine."""
