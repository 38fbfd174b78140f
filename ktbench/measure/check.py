"""What a device lacks before it can be measured, in plain words."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from devices._contract import DeviceError, Profile, Transport
from ktbench.measure.answers import Facts, Probe
from ktbench.measure.target import Target, architecture_problem, opened
from ktbench.records import DeviceSpec

BUSY_LOAD = 0.5


@dataclass(frozen=True, slots=True)
class Check:
    """The state of a device. `problems` keep it from being measured, `warnings` do not."""

    device: str
    title: str
    problems: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    advice: tuple[str, ...] = ()
    """Commands that would make figures steadier; ktbench runs none of them."""
    facts: Facts | None = None
    state: Facts | None = None
    runtimes: tuple[str, ...] = ()
    """Installed runtimes with their versions."""

    @property
    def ok(self) -> bool:
        """Whether the device can be measured."""
        return not self.problems


def check(device: DeviceSpec, transport: Transport | None = None) -> Check:
    """Ask a device what it is and has; every trouble is in the answer, none is raised."""
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
        advice=tuple(_advice(profile, probe)),
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
        yield f"{most} threads are asked for, {probe.processors} processors are free"


def _remedy(target: Target) -> str:
    """What installs all that is missing, where a command of ktbench can."""
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
            yield f"the board does not tell its {sensor.replace('_', ' ')}"
    throttled = probe.state.get("throttled")
    if isinstance(throttled, int) and throttled & 0xF:
        yield "the board is throttled now: cool it, and see to its power supply"
    load, cores = probe.state.get("load"), probe.facts.get("cores")
    if isinstance(load, float) and isinstance(cores, int) and load > BUSY_LOAD * cores:
        yield f"the device is busy: load {load:g} on {cores} processors"


def _advice(profile: Profile, probe: Probe) -> Iterator[str]:
    governor = probe.state.get("governor", "performance")
    if governor != "performance" and not profile.setup:
        yield f"the governor is {governor}: `performance` gives steadier figures"
    if governor != "performance":
        yield from (shlex.join(command) for command in profile.setup)
