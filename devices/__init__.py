"""Targets: one profile per file, transports to reach them, and the agent that runs on them."""

from ktbench.devices._contract import DeviceError as DeviceError
from ktbench.devices._contract import Profile as Profile
from ktbench.devices._contract import Transport as Transport
