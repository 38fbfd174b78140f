"""Raspberry Pi 5: four Cortex-A76 at 2.4 GHz; throttles from 80 degrees Celsius."""

from devices._contract import Profile

PROFILE = Profile(
    title="Raspberry Pi 5",
    transport="ssh",
    architectures=("aarch64",),
    sensors=("governor", "mhz", "temperatures_c", "throttled"),
    setup=(("sudo", "cpufreq-set", "-r", "-g", "performance"),),
    restore=(("sudo", "cpufreq-set", "-r", "-g", "ondemand"),),
    start_below_c=65.0,
)
