"""Made-up figures, labelled emulated, for trying a matrix out without a device."""

from ktbench.devices._contract import Profile

PROFILE = Profile(
    title="no device (made-up figures)",
    transport="fake",
    architectures=(),
    runtimes=("fake",),
    emulated=True,
)
