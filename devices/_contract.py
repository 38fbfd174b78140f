"""What a device is: pure data. A file of this folder defines `PROFILE: Profile`.

Addresses come from the user's SSH configuration or the matrix, never from here. How a device is
reached is a `Transport` (`devices/transport/`): it carries files and one task to the agent, and
brings one answer back.
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
    """A kind of board: how it is reached, what it can run, what it can tell about itself."""

    title: str
    transport: Literal["local", "ssh", "fake"]
    architectures: tuple[str, ...]
    """As `platform.machine()` on the board says; empty accepts any."""
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
    """Versions that the board's systems come with, the oldest first; empty where any may be."""
    max_opset: int | None = None
    """The newest ONNX opset that the board's runtime reads; None where it reads any of today's."""
    setup: tuple[tuple[str, ...], ...] = ()
    """Commands as argument lists that make figures steadier; ktbench shows them and runs none."""
    restore: tuple[tuple[str, ...], ...] = ()
    """Commands that undo `setup`."""
    start_below_c: float | None = None
    """Measuring waits until the hottest sensor is below this many degrees Celsius."""
    emulated: bool = False
    """True where figures say nothing about a real board."""


_HOST = re.compile(r"(?:[A-Za-z0-9_.+-]+@)?[A-Za-z0-9_.:%\[\]][A-Za-z0-9_.:%\[\]-]*")
_WITH_PORT = re.compile(r"(?P<host>(?:[^@]*@)?(?:[^:@]+|\[[^\]]*\])):(?P<port>[0-9]*)")


def host_objection(host: str) -> str | None:
    """Why ssh could not take a text for a host, with what to write instead; None where it can."""
    shown = "".join(c if c.isprintable() else "?" for c in host[:80])
    if "://" in host:
        return (
            f"{shown!r} is a URL: give the host alone, and its port and user in your SSH"
            " configuration"
        )
    if found := _WITH_PORT.fullmatch(host):
        name = "".join(c if c.isprintable() else "?" for c in found["host"][:80])
        return (
            f"{shown!r} names a port: give {name!r} alone, with `Port {found['port'][:6] or 22}`"
            " for it in your SSH configuration (~/.ssh/config)"
        )
    if host.startswith("-") or not _HOST.fullmatch(host):
        return (
            f"{shown!r} is no host name: use letters, digits and . _ - : or an alias of your"
            " SSH configuration"
        )
    return None


class DeviceError(Exception):
    """Why a device gave no answer, in one line for the user.

    `lost` says that it was not reached, or that the connection broke: then trying again may help,
    and so may leaving the device's other tasks for later.
    """

    def __init__(self, reason: str, *, lost: bool = False) -> None:
        super().__init__(reason)
        self.lost = lost


class AnswerError(DeviceError):
    """An agent ended without an answer, or its answer is none: the task at work is not done.

    The device itself is there, and may do other tasks.
    """


@dataclass(frozen=True, slots=True)
class Blob:
    """A file that a task needs, known on the device by its SHA-256 alone."""

    digest: str
    data: bytes

    @classmethod
    def of(cls, data: bytes) -> Blob:
        """The blob of these bytes."""
        return cls(hashlib.sha256(data).hexdigest(), data)

    @classmethod
    def read(cls, path: Path) -> Blob:
        """The blob of a file's content; OSError where it cannot be read."""
        return cls.of(path.read_bytes())


@dataclass(frozen=True, slots=True)
class Lease:
    """Who asks for a board: others are kept away during a task, and `seconds` after it."""

    owner: str
    """Equal for whatever may follow each other without a wait: the runs of one results folder."""
    holder: str
    """As other users are told."""
    seconds: float = 60.0

    @classmethod
    def of(cls, folder: Path) -> Lease:
        """The lease of what is done for a folder of this machine, by this user."""
        try:
            user = getpass.getuser()
        except (KeyError, OSError):  # an account without a name, as in some containers
            user = "somebody"
        name = f"{user}@{socket.gethostname()}: {folder.absolute()}"
        return cls(name, name)

    def task(self) -> dict[str, Any]:
        """As a task carries it."""
        return {"owner": self.owner, "holder": self.holder, "seconds": self.seconds}


class Transport(Protocol):
    """A way to a device; every task runs in a process of its own there."""

    def run(self, task: dict[str, Any], blobs: Sequence[Blob], limit_s: float) -> dict[str, Any]:
        """The agent's answer to a task; DeviceError when there is none within `limit_s`.

        The device is sent those blobs that it does not hold yet.
        """

    def series(
        self, task: dict[str, Any], blobs: Sequence[Blob], limits: Sequence[float]
    ) -> Generator[dict[str, Any] | DeviceError, None, None]:
        """The answers to `task["tasks"]`, or why there is none, as they come, in their order.

        Each is done in a process of its own, for at most its limit in seconds. Raises DeviceError
        when the device is lost, or when it takes none of the tasks; AnswerError when what came in
        place of the next answer leaves nothing to go on with.
        """

    def close(self) -> None:
        """Let go of what the transport holds on this machine."""
