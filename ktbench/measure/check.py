"""The check of a device: what it lacks before it can be measured, in plain words."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ktbench.devices._contract import DeviceError, Profile, Transport
from ktbench.measure.agent_schema import Facts, Probe
from ktbench.measure.target import Target, architecture_problem, opened
from ktbench.records import DeviceSpec

BUSY_LOAD = 0.5
_SENSORS = {
    "governor": "governor: the kernel has no cpufreq, so a change of clocks goes unnoticed",
    "mhz": "clocks: neither cpufreq nor `vcgencmd` reports them",
    "temperatures_c": "temperatures: no thermal zone can be read, so a hot start goes unnoticed",
    "throttled": "throttling: `vcgencmd get_throttled` is missing or may not be asked; install it,"
    " or join its group (`sudo usermod -aG video $USER`, and log in again)",
    "power_mode": "power mode: `nvpmodel -q` is missing or fails",
    "power_w": "power: no sensor can be read, so there is no energy; this user must be able to"
    " read a Jetson's INA3221 files or `tegrastats`, or ask `vcgencmd pmic_read_adc` of a Pi 5",
}
"""Sensors of a board: why one may be missing, and what follows or helps."""


@dataclass(frozen=True, slots=True)
class Check:
    """The state of a device. `problems` keep it from being measured, `warnings` do not."""

    device: str
    title: str
    problems: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    advice: tuple[str, ...] = ()
    """Suggestions that make figures steadier; none is carried out."""
    facts: Facts | None = None
    state: Facts | None = None
    runtimes: tuple[str, ...] = ()
    """Installed runtimes with their versions."""

    @property
    def ok(self) -> bool:
        """True if the device can be measured."""
        return not self.problems


def check(device: DeviceSpec, transport: Transport | None = None) -> Check:
    """Ask a device what it is and has; problems are returned, never raised."""
    title = device.profile
    try:
        with opened(device, transport) as target:
            title = target.profile.title
            probe = target.probe()
    except DeviceError as error:
        return Check(device.name, title, (str(error),))
    profile = target.profile
    return Check(
        device=device.name,
        title=title,
        problems=tuple(_problems(target, probe)),
        warnings=tuple(_warnings(profile, probe)),
        advice=tuple(_advice(profile, probe, device.settings)),
        facts=probe.facts,
        state=probe.state,
        runtimes=tuple(f"{k} {r.version}" for k, r in probe.runtimes.items() if r.version),
    )


def _problems(target: Target, probe: Probe) -> Iterator[str]:
    wrong = architecture_problem(target, probe)
    if wrong:
        yield wrong
    if probe.numpy is None:
        yield f"numpy is not installed for {probe.interpreter}{_remedy(target)}"
    if not any(r.version for k, r in probe.runtimes.items() if k in target.profile.runtimes):
        installs = ", or ".join(f"`pip install` {r.install}" for r in probe.runtimes.values())
        remedy = _remedy(target) or f": {installs}"
        yield f"no runtime is installed for {probe.interpreter}{remedy}"
    if probe.unsettable:
        yield probe.unsettable
    most = max(target.spec.threads)
    if most > probe.processors:
        yield f"{most} threads are requested, {probe.processors} processors are free"


def _remedy(target: Target) -> str:
    """Name the command of ktbench that installs all that is missing, if one can."""
    host = target.spec.host
    if target.profile.transport != "ssh" or host is None:
        return ""
    return f": run `ktbench devices setup {shlex.quote(host)}`, or install it there"


def _warnings(profile: Profile, probe: Probe) -> Iterator[str]:
    for name in profile.runtimes:
        runtime = probe.runtimes.get(name)
        if runtime and not runtime.version:
            formats = " and ".join(runtime.formats)
            why = runtime.error or "not installed"
            yield f"no {formats} models can be measured ({why}): install {runtime.install}"
    for sensor in profile.sensors:
        if sensor not in probe.state:
            yield f"the board does not report its {_SENSORS.get(sensor, sensor)}"
    yield from _other_board(profile, probe)
    held = probe.holder
    if held is not None:
        yield f"the board is held by {held.holder} for {held.seconds:.0f} s at least"
    throttled = probe.state.get("throttled")
    if isinstance(throttled, int) and throttled & 0xF:
        yield "the board is throttled now: cool it, and check its power supply"
    load, cores = probe.state.get("load"), probe.facts.get("cores")
    if isinstance(load, float) and isinstance(cores, int) and load > BUSY_LOAD * cores:
        yield f"the device is busy: load {load:g} on {cores} processors"


def _other_board(profile: Profile, probe: Probe) -> Iterator[str]:
    """Compare a board with its profile: a difference means another kind of board, or a fault."""
    mode = probe.state.get("power_mode")
    modes = [_plain(name) for name in profile.power_modes]
    if isinstance(mode, str) and modes and _plain(mode) not in modes:
        yield (
            f"power mode {mode} is none of a {profile.title}'s ({', '.join(profile.power_modes)}):"
            " check that the profile matches the board"
        )
    python = str(probe.facts.get("python", ""))
    version = ".".join(python.split(".")[:2])
    if version and profile.pythons and version not in profile.pythons:
        yield (
            f"Python is {python}, but the systems of a {profile.title} come with"
            f" {' or '.join(profile.pythons)}: check that `python` is the intended interpreter"
        )
    rails = probe.state.get("power_w")
    missing = [rail for rail in profile.rails if isinstance(rails, dict) and rail not in rails]
    if missing:
        yield (
            f"{', '.join(missing)} of its power rails cannot be read: energy may be missing, so"
            " check that the profile matches the board"
        )


def _plain(mode: str) -> str:
    return mode.upper().replace(" ", "_")


def _advice(profile: Profile, probe: Probe, settings: Mapping[str, str]) -> Iterator[str]:
    governor = probe.state.get("governor", "performance")
    if governor != "performance" and "governor" not in settings:
        yield (
            f"the governor is {governor}: `governor: performance` in the device's entry sets it for"
            " the run and puts it back"
        )
        yield from (f"by hand: {shlex.join(command)}" for command in profile.setup)
    mode = probe.state.get("power_mode")
    if mode is not None and profile.power_modes and "power_mode" not in settings:
        yield (
            f"the power mode is {mode}: `power_mode` in the device's entry measures in another"
            f" ({', '.join(profile.power_modes)})"
        )
    if profile.max_opset is not None:
        yield f"its runtime reads ONNX opsets up to {profile.max_opset}: export with that"
