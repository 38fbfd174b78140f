"""Raspberry Pi 5: four Cortex-A76 at 2.4 GHz."""

from ktbench.devices._contract import Profile

PROFILE = Profile(
    title="Raspberry Pi 5",
    transport="ssh",
    architectures=("aarch64",),
    sensors=("governor", "mhz", "temperatures_c", "throttled", "power_w"),
    # Of the power management chip (`vcgencmd pmic_read_adc`), which knows neither what the 5 V
    # rail feeds directly nor USB: `EXT5V` and `BATT` have a voltage and no current.
    rails=(
        "3V7_WL_SW",
        "3V3_SYS",
        "1V8_SYS",
        "DDR_VDD2",
        "DDR_VDDQ",
        "1V1_SYS",
        "0V8_SW",
        "VDD_CORE",
        "3V3_DAC",
        "3V3_ADC",
        "0V8_AON",
        "HDMI",
    ),
    # Pi OS Bookworm, its first system, and Trixie.
    pythons=("3.11", "3.13"),
    setup=(("sudo", "cpufreq-set", "-r", "-g", "performance"),),
    restore=(("sudo", "cpufreq-set", "-r", "-g", "ondemand"),),
    # The firmware slows the processor from 80 degrees on (Raspberry Pi documentation,
    # frequency management and thermal control).
    start_below_c=65.0,
)
