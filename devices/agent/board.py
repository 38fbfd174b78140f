"""Facts of a board that stay fixed, and its state, which changes while it works.

A sensor that a board has not is absent from the answer: never zero, never a guess.
"""

import os
import platform
import re
import sys
from typing import Any, Dict, List, Optional, Set

from . import power
from .reading import Tree, number, program

_IMPLEMENTERS = {"0x41": "ARM", "0x4e": "NVIDIA", "0x51": "Qualcomm", "0x61": "Apple"}
# MIDR part numbers, Arm's technical reference manuals.
_PARTS = {
    ("0x41", "0xd03"): "Cortex-A53",
    ("0x41", "0xd04"): "Cortex-A35",
    ("0x41", "0xd05"): "Cortex-A55",
    ("0x41", "0xd07"): "Cortex-A57",
    ("0x41", "0xd08"): "Cortex-A72",
    ("0x41", "0xd09"): "Cortex-A73",
    ("0x41", "0xd0a"): "Cortex-A75",
    ("0x41", "0xd0b"): "Cortex-A76",
    ("0x41", "0xd0c"): "Neoverse-N1",
    ("0x41", "0xd41"): "Cortex-A78",
    ("0x41", "0xd42"): "Cortex-A78AE",
    ("0x41", "0xd49"): "Neoverse-N2",
    ("0x4e", "0x004"): "Carmel",
}


_THROTTLED = "sys/devices/platform/soc/soc:firmware/get_throttled"


class Board:
    """Reads a board through its files below `root` and the programs on its PATH."""

    def __init__(self, root: str = "/") -> None:
        self.tree = Tree(root)

    # ------------------------------------------------------------ fixed

    def facts(self) -> Dict[str, Any]:
        """Return what does not change while the board works; equal facts mean an equal board."""
        memory = self._meminfo("MemTotal")
        values = {
            "machine": platform.machine(),
            "kernel": platform.release(),
            "python": platform.python_version(),
            "os": self._os(),
            "model": self.tree.text("proc/device-tree/model"),
            "compatible": self.tree.text("proc/device-tree/compatible"),
            "l4t": self._first_line("etc/nv_tegra_release"),
            "cpu": self._cpu(),
            "cores": os.cpu_count(),
            "max_mhz": self._max_mhz(),
            "memory_bytes": memory,
        }
        return {key: value for key, value in values.items() if value not in (None, "", [])}

    def _os(self) -> Optional[str]:
        match = re.search('^PRETTY_NAME="?([^"\n]*)', self.tree.text("etc/os-release") or "", re.M)
        return match.group(1) if match else None

    def _cpu(self) -> List[str]:
        """Distinct processor names; arm64 has no `model name`, only implementer and part."""
        text = self.tree.text("proc/cpuinfo") or ""
        names = re.findall(r"^model name\s*:\s*(.+)$", text, re.M)
        if not names:
            makers = re.findall(r"^CPU implementer\s*:\s*(\S+)$", text, re.M)
            parts = re.findall(r"^CPU part\s*:\s*(\S+)$", text, re.M)
            names = [_part(maker, part) for maker, part in zip(makers, parts)]
        return sorted(set(names))

    def _max_mhz(self) -> List[float]:
        clocks = [self.tree.number(p) for p in self._cpus("cpufreq/cpuinfo_max_freq")]
        return sorted({khz / 1000 for khz in clocks if khz is not None})

    # ------------------------------------------------------------ changing

    def state(self) -> Dict[str, Any]:
        """Governors, clocks, temperatures, throttling, power mode, memory and load, now."""
        values = {
            "governor": self.governor(),
            "mhz": self.mhz(),
            "gpu_governor": self._gpu_governor(),
            "gpu_mhz": self.gpu_mhz(),
            "temperatures_c": self._temperatures(),
            "throttled": self.throttled(),
            "cooling": self._cooling(),
            "overcurrent_events": self._overcurrent(),
            "power_mode": self.power_mode(),
            "power_w": self._power(),
            "memory_available_bytes": self._meminfo("MemAvailable"),
            "load": self._load(),
        }
        return {key: value for key, value in values.items() if value not in (None, "", [], {})}

    def temperature(self) -> Optional[float]:
        """The hottest sensor, in degrees Celsius."""
        temperatures = self._temperatures()
        return max(temperatures.values()) if temperatures else None

    def governor(self) -> Optional[str]:
        """The processors' governor; several names are joined by a plus."""
        texts = [self.tree.text(path) for path in self._cpus("cpufreq/scaling_governor")]
        return "+".join(sorted({text for text in texts if text})) or None

    def mhz(self) -> List[float]:
        """The clock of each processor; on a Raspberry Pi without cpufreq the firmware's."""
        clocks = [self.tree.number(p) for p in self._cpus("cpufreq/scaling_cur_freq")]
        if clocks:
            return [khz / 1000 for khz in clocks if khz is not None]
        match = re.search(
            r"frequency\(\d+\)=(\d+)", program("vcgencmd", "measure_clock", "arm") or ""
        )
        return [int(match.group(1)) / 1e6] if match else []

    def gpu_mhz(self) -> Dict[str, float]:
        """The clock of each of a Jetson's GPU domains."""
        clocks = ((path, self.tree.number(path + "/cur_freq")) for path in self._gpus())
        return {os.path.basename(path): hz / 1e6 for path, hz in clocks if hz is not None}

    def _gpu_governor(self) -> Optional[str]:
        texts = [self.tree.text(path + "/governor") for path in self._gpus()]
        return "+".join(sorted({text for text in texts if text})) or None

    def _gpus(self) -> List[str]:
        """Named by chip and address (57000000.gpu, 17000000.ga10b), or just gpu."""
        folders = self.tree.glob("sys/class/devfreq/*")
        return [f for f in folders if re.search(r"gpu|g[mpvab]\d+b", os.path.basename(f))]

    def _temperatures(self) -> Dict[str, float]:
        temperatures: Dict[str, float] = {}
        for zone in self.tree.glob("sys/class/thermal/thermal_zone*"):
            kind = self.tree.text(zone + "/type") or os.path.basename(zone)
            value = self.tree.number(zone + "/temp")
            # A Jetson's PMIC zone always says 100 degrees.
            if value is not None and "pmic" not in kind.lower():
                temperatures["%s#%s" % (kind, re.sub(r"\D", "", os.path.basename(zone)))] = (
                    value / 1000
                )
        return temperatures or self._firmware_temperature() or self._hwmon_temperatures()

    def _firmware_temperature(self) -> Dict[str, float]:
        match = re.search(r"temp=([0-9.]+)", program("vcgencmd", "measure_temp") or "")
        return {"vcgencmd": float(match.group(1))} if match else {}

    def _hwmon_temperatures(self) -> Dict[str, float]:
        temperatures = {}
        for path in self.tree.glob("sys/class/hwmon/hwmon*/temp*_input"):
            folder, name = os.path.split(path)
            kind = self.tree.text(folder + "/name") or ""
            value = self.tree.number(path)
            if value is not None and re.search("cpu|core|soc|k10", kind, re.I):  # no disk's
                temperatures["%s#%s" % (kind, name[len("temp") : -len("_input")])] = value / 1000
        return temperatures

    def throttled(self) -> Optional[int]:
        """A Raspberry Pi's flags: bits 0 to 3 now, 16 to 19 since the board started."""
        text = self.tree.text(_THROTTLED)
        if text is None:
            text = (program("vcgencmd", "get_throttled") or "").partition("=")[2]
        try:
            return int(text.strip(), 16)
        except ValueError:
            return None

    def _cooling(self) -> Dict[str, int]:
        """Return the level of each cooling device that slows the processor; fans are left out."""
        levels = {}
        for path in self.tree.glob("sys/class/thermal/cooling_device*"):
            kind = self.tree.text(path + "/type") or ""
            value = self.tree.number(path + "/cur_state")
            if value is not None and re.search("cpu|processor", kind, re.I):
                levels["%s#%s" % (kind, re.sub(r"\D", "", os.path.basename(path)))] = int(value)
        return levels

    def _overcurrent(self) -> Dict[str, int]:
        """Jetson Orin's counters of over-current events."""
        counts = {}
        for folder in self.tree.glob("sys/class/hwmon/hwmon*"):
            for path in self.tree.glob(folder + "/oc*_event_cnt"):
                value = self.tree.number(path)
                if value is not None:
                    counts[os.path.basename(path)] = int(value)
        return counts

    def power_mode(self) -> Optional[str]:
        """A Jetson's power mode, as `nvpmodel` calls it."""
        match = re.search(r"NV Power Mode:\s*(.*\S)", program("nvpmodel", "-q") or "")
        return match.group(1) if match else None

    def _power(self) -> Dict[str, float]:
        meter = power.find(self.tree.root)
        if meter is None:
            return {}
        try:
            return meter.watts()
        finally:
            meter.close()

    def _load(self) -> Optional[float]:
        return number((self.tree.text("proc/loadavg") or "").partition(" ")[0])

    # ------------------------------------------------------------ processors to run on

    def choose_cpus(self, count: int) -> List[int]:
        """Choose processors to run on from those of this process: the fastest, one per core first.

        Among equals the last ones are taken, as the first serves most interrupts. Returns fewer
        than `count` if the process may not use so many.
        """
        allowed = sorted(_allowed(), reverse=True)
        fast: List[int] = []
        siblings: List[int] = []
        seen: Set[str] = set()
        for cpu in sorted(allowed, key=self._khz, reverse=True):
            base = "sys/devices/system/cpu/cpu%d/topology/thread_siblings_list" % cpu
            core = self.tree.text(base) or str(cpu)
            (siblings if core in seen else fast).append(cpu)
            seen.add(core)
        return (fast + siblings)[:count]

    def _khz(self, cpu: int) -> float:
        path = "sys/devices/system/cpu/cpu%d/cpufreq/cpuinfo_max_freq" % cpu
        return self.tree.number(path) or 0.0

    # ------------------------------------------------------------ files

    def _first_line(self, path: str) -> Optional[str]:
        return (self.tree.text(path) or "").partition("\n")[0] or None

    def _cpus(self, tail: str) -> List[str]:
        return self.tree.glob("sys/devices/system/cpu/cpu[0-9]*/" + tail)

    def _meminfo(self, key: str) -> Optional[int]:
        match = re.search(r"^%s:\s*(\d+) kB" % key, self.tree.text("proc/meminfo") or "", re.M)
        return int(match.group(1)) * 1024 if match else None


def _part(maker: str, part: str) -> str:
    name = _PARTS.get((maker, part))
    return name or "%s %s" % (_IMPLEMENTERS.get(maker, maker), part)


def _allowed() -> List[int]:
    if hasattr(os, "sched_getaffinity"):
        return list(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def peak_memory() -> Optional[int]:
    """The most memory that this process has held so far, in bytes."""
    try:
        with open("/proc/self/status") as file:
            match = re.search(r"^VmHWM:\s*(\d+) kB", file.read(), re.M)
    except OSError:
        match = None
    if match:
        return int(match.group(1)) * 1024
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
