"""This machine, as the device itself."""

from devices._contract import Profile

PROFILE = Profile(title="this machine", transport="local", architectures=())
