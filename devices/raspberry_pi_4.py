"""Raspberry Pi 4: four Cortex-A72 at 1.5 or 1.8 GHz."""

from ktbench.devices._contract import Profile

PROFILE = Profile(
    title="Raspberry Pi 4",
    transport="ssh",
    architectures=("aarch64", "armv7l"),
    # No power sensor: energy takes an external meter.
    sensors=("governor", "mhz", "temperatures_c", "throttled"),
    # Pi OS Bullseye, Bookworm and Trixie.
    pythons=("3.9", "3.11", "3.13"),
    setup=(("sudo", "cpufreq-set", "-r", "-g", "performance"),),
    restore=(("sudo", "cpufreq-set", "-r", "-g", "ondemand"),),
    # The firmware slows the processor from 80 degrees on (Raspberry Pi documentation,
    # frequency management and thermal control).
    start_below_c=65.0,
)
