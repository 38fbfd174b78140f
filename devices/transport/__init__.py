"""Ways to a device: this machine, SSH, and a fake for tests of the pipeline."""

from __future__ import annotations

from ktbench.devices._contract import DeviceError, Profile, Transport
from ktbench.devices.transport._exchange import agent_archive


def agent_digest() -> str:
    """SHA-256 of the agent that is sent to devices."""
    return agent_archive().digest


def open_transport(profile: Profile, host: str | None, python: str) -> Transport:
    """The way to a device of this profile; DeviceError where its address cannot be one.

    `python` names the interpreter on the device; `python3`, the default, is the one that answers:
    this process's own where the device is this machine.
    """
    interpreter = None if python == "python3" else python
    if profile.transport == "ssh":
        from ktbench.devices.transport.ssh import SshTransport

        return SshTransport(host, interpreter)
    if host is not None:
        raise DeviceError(f"{profile.title} takes no host, but {host!r} is given")
    if profile.transport == "fake":
        from ktbench.devices.transport.fake import FakeTransport

        return FakeTransport()
    from ktbench.devices.transport.local import LocalTransport

    return LocalTransport(interpreter)
