"""Raspberry Pi 4: four Cortex-A72 at 1.5 or 1.8 GHz; throttles from 80 degrees Celsius."""

from devices._contract import Profile

PROFILE = Profile(
    title="Raspberry Pi 4",
    transport="ssh",
    architectures=("aarch64", "armv7l"),
    sensors=("governor", "mhz", "temperatures_c", "throttled"),
    setup=(("sudo", "cpufreq-set", "-r", "-g", "performance"),),
    restore=(("sudo", "cpufreq-set", "-r", "-g", "ondemand"),),
    start_below_c=65.0,
)
