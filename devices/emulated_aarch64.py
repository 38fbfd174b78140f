"""A 64-bit ARM board emulated by QEMU: it proves the path, never the speed."""

from ktbench.devices._contract import Profile

PROFILE = Profile(
    title="emulated 64-bit ARM board",
    transport="ssh",
    architectures=("aarch64",),
    emulated=True,
)
