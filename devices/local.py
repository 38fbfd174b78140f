"""This machine, as the device itself."""

from ktbench.devices._contract import Profile

PROFILE = Profile(title="this machine", transport="local", architectures=())
