"""Any 64-bit ARM Linux board."""

from ktbench.devices._contract import Profile

PROFILE = Profile(
    title="64-bit ARM board",
    transport="ssh",
    architectures=("aarch64",),
    sensors=("governor", "temperatures_c"),
    start_below_c=70.0,
)
