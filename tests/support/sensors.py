"""Boards made of files and small programs: sysfs trees per JetPack, `vcgencmd` and the like."""

from __future__ import annotations

from pathlib import Path

import pytest

Rails = dict[str, tuple[int, int]]
"""Millivolts and milliamperes per rail."""

ORIN_NANO: Rails = {"VDD_IN": (5040, 944), "VDD_CPU_GPU_CV": (5040, 200), "VDD_SOC": (5040, 288)}
AGX_ORIN = (
    {"VDD_GPU_SOC": (19000, 210), "VDD_CPU_CV": (19000, 63), "VIN_SYS_5V0": (4968, 1000)},
    {"NC": (0, 0), "VDDQ_VDD2_1V8AO": (4968, 220)},
)
NANO: Rails = {"POM_5V_IN": (5000, 600), "POM_5V_GPU": (5000, 40), "POM_5V_CPU": (5000, 240)}
TEGRASTATS = (
    "11-21-2026 10:00:00 RAM 2448/7620MB (lfb 4x4MB) SWAP 0/3810MB (cached 0MB) CPU"
    " [5%@1510,2%@1510,0%@1510] EMC_FREQ 0%@2133 GR3D_FREQ 0%@[305] cpu@47.5C soc2@46.1C"
    " tj@47.5C VDD_IN 4720mW/4650mW VDD_CPU_GPU_CV 1020mW/1000mW VDD_SOC 1462mW/1460mW"
)
TEGRASTATS_4 = (
    "RAM 1903/3964MB (lfb 40x4MB) IRAM 0/252kB(lfb 252kB) CPU [14%@1224,8%@1224,off,off]"
    " EMC_FREQ 4%@1600 GR3D_FREQ 0%@76 APE 25 PLL@38.5C CPU@41C PMIC@100C"
    " POM_5V_IN 2041/2051 POM_5V_GPU 0/0 POM_5V_CPU 408/418"
)
PMIC = """\
 3V7_WL_SW_A current(0)=0.10000000A
   3V3_SYS_A current(1)=0.20000000A
  VDD_CORE_A current(7)=1.50000000A
 3V7_WL_SW_V volt(8)=3.70000000V
   3V3_SYS_V volt(9)=3.30000000V
  VDD_CORE_V volt(15)=0.90000000V
     EXT5V_V volt(24)=5.05716000V
      BATT_V volt(25)=0.00000000V
"""


def write(root: Path, files: dict[str, str]) -> Path:
    """Write files below a root, with the folders that they need."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def jetpack_5(root: Path, *chips: Rails) -> Path:
    """Write INA3221 chips as JetPack 5 and 6 show them, with the channels that are no rails."""
    files = {}
    for number, rails in enumerate(chips):
        folder = f"sys/bus/i2c/drivers/ina3221/1-004{number}/hwmon/hwmon{number + 3}/"
        for channel, (name, (volts, amperes)) in enumerate(rails.items(), start=1):
            files[f"{folder}in{channel}_label"] = f"{name}\n"
            files[f"{folder}in{channel}_input"] = f"{volts}\n"
            files[f"{folder}curr{channel}_input"] = f"{amperes}\n"
            files[f"{folder}in{channel + 3}_input"] = "9\n"  # a shunt's
        files[f"{folder}in7_label"] = "Sum of shunt voltages\n"
        files[f"{folder}in7_input"] = "99\n"
    return write(root, files)


def jetpack_4(root: Path, rails: Rails, *, milliwatts: bool = True) -> Path:
    """Write an INA3221 as JetPack 4 shows it."""
    folder = "sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0/"
    files = {}
    for channel, (name, (volts, amperes)) in enumerate(rails.items()):
        files[f"{folder}rail_name_{channel}"] = f"{name}\n"
        files[f"{folder}in_voltage{channel}_input"] = f"{volts}\n"
        files[f"{folder}in_current{channel}_input"] = f"{amperes}\n"
        if milliwatts:
            files[f"{folder}in_power{channel}_input"] = f"{volts * amperes // 1000}\n"
    return write(root, files)


def programs(folder: Path, monkeypatch: pytest.MonkeyPatch, **bodies: str) -> None:
    """Write shell programs, and let them be the only ones on the path from now on."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, body in bodies.items():
        path = folder / name
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


def governors(root: Path, names: dict[str, str]) -> Path:
    """Write processors with these governors, and three to choose from."""
    files = {}
    for cpu, name in names.items():
        folder = f"sys/devices/system/cpu/{cpu}/cpufreq/"
        files[f"{folder}scaling_governor"] = f"{name}\n"
        files[f"{folder}scaling_available_governors"] = "performance powersave ondemand schedutil\n"
    return write(root, files)


def jetson_modes(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    modes: dict[str, int],
    now: str,
    *,
    takes: bool = True,
    kills: bool = False,
) -> Path:
    """A Jetson's power modes, and an `nvpmodel` that enters them; returns the board's root.

    Without `takes` it stays where it is, as where a mode wants a restart; with `kills` whoever
    asks for a mode is killed once it is entered.
    """
    lines = [f"< POWER_MODEL ID={number} NAME={name} >" for name, number in modes.items()]
    files = {"etc/nvpmodel.conf": "\n".join(["< PARAM TYPE=FILE NAME=X >", *lines, ""])}
    root = write(folder / "root", {**files, "mode": now})
    cases = "\n".join(f"{number}) echo {name} > {root}/mode ;;" for name, number in modes.items())
    body = f"""
if [ "$1" = -q ]; then read mode < {root}/mode; echo "NV Power Mode: $mode"; exit 0; fi
[ "$1" = -m ] || exit 1
{f'case "$2" in {cases} esac' if takes else "exit 1"}
{"kill -9 $PPID" if kills else ""}
exit 0"""
    programs(folder / "bin", monkeypatch, nvpmodel=body)
    return root
