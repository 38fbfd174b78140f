"""Power that a board measures of itself, rail by rail.

Three kinds of sensor: the INA3221 chips of a Jetson in sysfs, `tegrastats` where those cannot be
read, and the power management chip of a Raspberry Pi 5 through `vcgencmd`. A rail may be fed by
another, so that a sum of all of them counts twice: only the rails of `total_of` are added up.
"""

import os
import re
import subprocess
from typing import Dict, List, NamedTuple, Optional, Sequence

from .reading import Tree, program

# Rails that are the whole board or module together, the first set that is there in full.
# VDD_IN, POM_5V_IN and 5V_IN feed all others (Jetson Linux developer guide, software-based power
# consumption modelling). An AGX Orin has no such rail: these three are taken to make it up, and its
# VDDQ_VDD2_1V8AO to be fed from VIN_SYS_5V0 (not confirmed on a board). An AGX Xavier's six have
# no common one either.
_TOTALS = (
    ("VDD_IN",),
    ("POM_5V_IN",),
    ("5V_IN",),
    ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"),
    ("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"),
)

_TEGRASTATS = re.compile(r"\b([A-Z0-9][A-Z0-9_]*) (\d+)(?:mW)?/\d+(?:mW)?(?=\s|$)")
_PMIC = re.compile(r"^\s*(\w+)_([AV])\s+(?:current|volt)\(\d+\)=([0-9.]+)[AV]\s*$", re.M)

Rail = NamedTuple("Rail", [("name", str), ("watts", str), ("volts", str), ("amperes", str)])
"""Files of one channel: milliwatts, or millivolts and milliamperes; empty where there is none."""


def total_of(rails: Sequence[str], source: str) -> List[str]:
    """Return the rails that add up to the whole board; none if a sum would be wrong.

    The outputs of a Raspberry Pi's power management chip are added up as they are: what the 5 V
    rail feeds directly (USB, fans, most of a HAT) is not among them.
    """
    if source == "pmic":
        return list(rails)
    for names in _TOTALS:
        if set(names) <= set(rails):
            return list(names)
    return []


class Meter:
    """A way to read the rails; `source` names it, `rails` are those that it knows."""

    source: str
    rails: List[str]

    def watts(self) -> Dict[str, float]:
        """Power per rail now, in watts; a rail that cannot be read just now is absent."""
        raise NotImplementedError

    def close(self) -> None:
        """End what the meter keeps running."""


class Ina3221(Meter):
    """The INA3221 chips of a Jetson: JetPack 4's driver below `iio`, later ones below `hwmon`."""

    source = "ina3221"

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        rails = _hwmon_rails(tree) or _iio_rails(tree)
        self._rails = [rail for rail in rails if self._read(rail) is not None]
        self.rails = [rail.name for rail in self._rails]

    def watts(self) -> Dict[str, float]:
        """See `Meter.watts`."""
        read = ((rail.name, self._read(rail)) for rail in self._rails)
        return {name: value for name, value in read if value is not None}

    def _read(self, rail: Rail) -> Optional[float]:
        if rail.watts:
            milliwatts = self._tree.number(rail.watts)
            if milliwatts is not None:
                return milliwatts / 1e3
        millivolts, milliamperes = self._tree.number(rail.volts), self._tree.number(rail.amperes)
        if millivolts is None or milliamperes is None:
            return None
        return millivolts * milliamperes / 1e6


def _hwmon_rails(tree: Tree) -> List[Rail]:
    """JetPack 5 and later; channels past the third hold shunt voltages and their sum."""
    rails = []
    for folder in tree.glob("sys/bus/i2c/drivers/ina3221/*/hwmon/hwmon*"):
        for channel in (1, 2, 3):
            name = tree.text("%s/in%d_label" % (folder, channel))
            if _is_rail(name):
                volts, amperes = ("%s/%s%d_input" % (folder, k, channel) for k in ("in", "curr"))
                rails.append(Rail(str(name), "", volts, amperes))
    return rails


def _iio_rails(tree: Tree) -> List[Rail]:
    """JetPack 4."""
    rails = []
    for folder in tree.glob("sys/bus/i2c/drivers/ina3221x/*/iio:device*"):
        for channel in (0, 1, 2):
            name = tree.text("%s/rail_name_%d" % (folder, channel))
            if _is_rail(name):
                files = (
                    "%s/in_%s%d_input" % (folder, kind, channel)
                    for kind in ("power", "voltage", "current")
                )
                rails.append(Rail(str(name), *files))
    return rails


def _is_rail(name: Optional[str]) -> bool:
    """Tell if a channel is wired: NC stands for not connected."""
    return bool(name) and str(name).upper() != "NC"


class Pmic(Meter):
    """The power management chip of a Raspberry Pi 5."""

    source = "pmic"

    def __init__(self) -> None:
        self.rails = sorted(self.watts())

    def watts(self) -> Dict[str, float]:
        """See `Meter.watts`."""
        return parse_pmic(program("vcgencmd", "pmic_read_adc") or "")


def parse_pmic(text: str) -> Dict[str, float]:
    """Power per rail that has both a voltage and a current."""
    readings: Dict[str, Dict[str, float]] = {"A": {}, "V": {}}
    for name, unit, value in _PMIC.findall(text):
        readings[unit][name] = float(value)
    return {
        name: amperes * readings["V"][name]
        for name, amperes in readings["A"].items()
        if name in readings["V"]
    }


class Tegrastats(Meter):
    """Power as `tegrastats` prints it, for boards whose own sensor files cannot be read."""

    source = "tegrastats"

    def __init__(self, interval_s: float) -> None:
        self.rails = []
        command = ["tegrastats", "--interval", str(max(int(interval_s * 1e3), 1))]
        self._process = None  # type: Optional[subprocess.Popen[bytes]]
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        except OSError:
            return
        self.rails = sorted(self.watts())
        if not self.rails:
            self.close()

    def watts(self) -> Dict[str, float]:
        """The next line's; waits for it."""
        if self._process is None or self._process.stdout is None:
            return {}
        return parse_tegrastats(self._process.stdout.readline(1 << 16).decode("utf-8", "replace"))

    def close(self) -> None:
        """See `Meter.close`."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            if self._process.stdout is not None:
                self._process.stdout.close()
            self._process = None


def parse_tegrastats(line: str) -> Dict[str, float]:
    """Power per rail of a line: `NAME now/average`, in milliwatts, with the unit since JetPack 5.

    A load or a memory's fill also has a slash, but no name in capitals right before its number, or
    another unit behind it.
    """
    rails = {name for names in _TOTALS for name in names}
    watts = {}
    for name, value in _TEGRASTATS.findall(line):
        if name in rails or name.startswith(("VDD", "VIN", "POM", "VDDQ")):
            watts[name] = int(value) / 1e3
    return watts


def find(root: str = "/", interval_s: float = 0.2) -> Optional[Meter]:
    """The board's meter, or None; `tegrastats` is told to print so often."""
    chips = Ina3221(Tree(root))
    if chips.rails:
        return chips
    for meter in (Tegrastats(interval_s), Pmic()) if os.name == "posix" else ():
        if meter.rails:
            return meter
    return None
