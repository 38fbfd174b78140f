"""Raspberry Pi 3, B, B+ and A+: four Cortex-A53 at 1.2 or 1.4 GHz, 1 GB or less of memory."""

from ktbench.devices._contract import Profile

PROFILE = Profile(
    title="Raspberry Pi 3",
    transport="ssh",
    architectures=("aarch64", "armv7l"),
    # No power sensor: energy takes an external meter.
    sensors=("governor", "mhz", "temperatures_c", "throttled"),
    # Pi OS Bullseye, Bookworm and Trixie.
    pythons=("3.9", "3.11", "3.13"),
    setup=(("sudo", "cpufreq-set", "-r", "-g", "performance"),),
    restore=(("sudo", "cpufreq-set", "-r", "-g", "ondemand"),),
    # A B+ or A+ is slowed to 1.2 GHz from 60 degrees on, by `temp_soft_limit` (Raspberry Pi
    # documentation, config.txt); others from 80.
    start_below_c=52.0,
)
