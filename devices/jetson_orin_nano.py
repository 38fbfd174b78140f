"""NVIDIA Jetson Orin Nano: six Cortex-A78AE, measured on its processors."""

from devices._contract import Profile

PROFILE = Profile(
    title="Jetson Orin Nano",
    transport="ssh",
    architectures=("aarch64",),
    sensors=("governor", "mhz", "temperatures_c", "power_mode"),
    setup=(("sudo", "nvpmodel", "-m", "0"), ("sudo", "jetson_clocks")),
    restore=(("sudo", "jetson_clocks", "--restore"),),
    start_below_c=65.0,
)
