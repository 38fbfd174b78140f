"""The steps of setting a board up, and of taking it down, over any transport."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ktbench.boards.choice import Choice, choose
from ktbench.boards.probe import Look
from ktbench.boards.wheels import Wheel, fetch
from ktbench.devices._contract import DeviceError, Lease, Transport
from ktbench.measure.agent_schema import Probe, parse
from ktbench.records import KtbenchError

LOOK_S = 120.0
INSTALL_S = 1800.0
SPARE_BYTES = 64 << 20
"""Left free on the board: artifacts and inputs need room, too."""

Tell = Callable[[str], None]
"""Receives progress, one line at a time."""


@dataclass(frozen=True, slots=True)
class Ready:
    """A board that is set up."""

    look: Look
    wheels: tuple[str, ...]
    runtimes: tuple[str, ...]
    """Names with versions, as the board's agent loaded them."""
    notes: tuple[str, ...]
    sent_bytes: int
    """Zero if the board had everything already."""


@dataclass(frozen=True, slots=True)
class Removed:
    """Result of removing everything of ktbench from a board."""

    bytes: int


def look_at(transport: Transport) -> Look:
    """Return what the board has; DeviceError if it gives no answer."""
    return parse(Look, transport.run({"task": "look"}, [], LOOK_S))


def set_up(transport: Transport, host: str, tell: Tell) -> Ready:
    """Give a board numpy and the runtimes that fit it; nothing is sent that it has already.

    Raises KtbenchError with one line that names the host and what prevents the set-up. The board is
    held meanwhile, so that nobody measures on it.
    """
    try:
        look = look_at(transport)
        tell(f"{host} is {look.title}")
        choice = choose(look)
        if choice.problems:
            raise KtbenchError(f"{host}: {choice.problems[0]}")
        tell(f"fetching {', '.join(choice.requirements)}")
        wheels = fetch(choice, look)
        sent = _install(transport, host, look, wheels, tell)
        return _proved(transport, look, choice, wheels, sent)
    except DeviceError as error:
        raise KtbenchError(f"{host}: {error}") from error


def _install(
    transport: Transport, host: str, look: Look, wheels: Sequence[Wheel], tell: Tell
) -> int:
    """Send and unpack the wheels unless the board has exactly these; return the bytes sent."""
    pinned = sorted([wheel.name, wheel.blob.digest] for wheel in wheels)
    installed = look.environment
    if installed is not None and not look.misfit and sorted(installed.wheels) == pinned:
        tell("it has them already")
        return 0
    packed = sum(len(wheel.blob.data) for wheel in wheels)
    unpacked = sum(wheel.unpacked_bytes for wheel in wheels)
    needed = packed + unpacked + SPARE_BYTES
    if look.free_bytes < needed:
        raise KtbenchError(
            f"{host}: {_megabytes(look.free_bytes)} are free there, {_megabytes(needed)} are"
            " needed: free some, or mount a larger disk at ~/.cache"
        )
    tell(f"sending {_megabytes(packed)}, to be {_megabytes(unpacked)} there")
    task = {
        "task": "install",
        "wheels": pinned,
        "bytes": unpacked,
        "lease": Lease.of(Path("setup")).task(),
    }
    transport.run(task, [wheel.blob for wheel in wheels], INSTALL_S)
    return packed


def _proved(
    transport: Transport, look: Look, choice: Choice, wheels: Sequence[Wheel], sent: int
) -> Ready:
    """Return the board with what its agent could load; DeviceError if a runtime is missing."""
    probe = parse(Probe, transport.run({"task": "probe"}, [], LOOK_S))
    loaded = tuple(f"{k} {r.version}" for k, r in probe.runtimes.items() if r.version)
    runtimes = sum(not pin.startswith("numpy") for pin in choice.requirements)
    if probe.numpy is None or len(loaded) < runtimes:
        errors = [r.error for r in probe.runtimes.values() if r.error] or ["numpy is missing"]
        raise DeviceError(f"installed, but it cannot be loaded: {errors[0]}")
    names = tuple(wheel.name for wheel in wheels)
    return Ready(look, names, loaded, choice.notes, sent)


def take_down(transport: Transport, host: str) -> Removed:
    """Remove everything of ktbench from a board; KtbenchError if that fails or it is held."""
    task = {"task": "remove", "lease": Lease.of(Path("setup")).task()}
    try:
        answer = transport.run(task, [], LOOK_S)
    except DeviceError as error:
        raise KtbenchError(f"{host}: {error}") from error
    size = answer.get("removed")
    return Removed(size if isinstance(size, int) else 0)


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.0f} MB"
