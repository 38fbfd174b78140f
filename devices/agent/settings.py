"""A board's governor and power mode: set where a task asks for it and may, and put back.

What was there before goes to a file of the store first, and that file goes once all is put back:
at the end of a run, when the host is lost in mid-task, by the next task after a crash, and before
ktbench is removed. What somebody else has changed since is left as it is.
"""

import json
import os
import re
import subprocess
from typing import Any, Dict, List, Optional, Sequence

from .board import Board
from .protocol import TaskError
from .reading import program

NAME = "before.json"
NVPMODEL = "etc/nvpmodel.conf"
SET_S = 30.0
"""Seconds that a program which sets something is given."""
_CPUS = "sys/devices/system/cpu/"
_MODE = re.compile(r"<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)\s*>")


def settle(store: str, wanted: Dict[str, str], board: Optional[Board] = None) -> None:
    """Set the board to `wanted` (`governor`, `power_mode`), and put back every other setting.

    TaskError if that is impossible; then everything is as it was before.
    """
    board = board or Board()
    before = _read(store)
    # A power mode may switch processors on and off: it comes before the governors, and goes last.
    for setting in (Governors(board), PowerMode(board)):
        if setting.key in before and setting.key not in wanted:
            _put_back(store, before, setting)
    try:
        for setting in (PowerMode(board), Governors(board)):
            if setting.key in wanted:
                _change(store, before, setting, wanted[setting.key])
    except TaskError:
        for setting in (Governors(board), PowerMode(board)):
            if setting.key in before:
                _put_back(store, before, setting)
        raise


def problem(wanted: Dict[str, str], board: Optional[Board] = None) -> Optional[str]:
    """Explain why the board could not be set so, as far as can be told without trying."""
    board = board or Board()
    try:
        for setting in (PowerMode(board), Governors(board)):
            if setting.key in wanted and not setting.is_now(wanted[setting.key]):
                setting.check(wanted[setting.key])
    except TaskError as error:
        return str(error)
    return None


def left(store: str) -> Dict[str, str]:
    """Return the settings that ktbench has changed and not put back yet, by key."""
    return {key: str(entry["set"][-1]) for key, entry in _read(store).items()}


class Setting:
    """Something that may be set; `key` names it in a task and in the file."""

    key: str

    def now(self) -> Any:
        """Return the present value, as the file keeps it; empty if there is no such setting."""
        raise NotImplementedError

    def is_now(self, name: str) -> bool:
        """Tell if the present value is this one, so that nothing is to be done."""
        raise NotImplementedError

    def check(self, name: str) -> None:
        """Raise TaskError if there is no such value, or if it may not be set."""
        raise NotImplementedError

    def set(self, value: Any) -> None:
        """Set it to a name or to a result of `undone`; TaskError if that fails."""
        raise NotImplementedError

    def undone(self, before: Any, made: List[str]) -> Any:
        """Return what restores `before`, provided that the present value is one of `made`."""
        raise NotImplementedError


class Governors(Setting):
    """The processors' governors: `{"cpu0": "ondemand", ...}`."""

    key = "governor"

    def __init__(self, board: Board) -> None:
        self._tree = board.tree

    def now(self) -> Dict[str, str]:
        """Return the governor of each processor by name; one that is switched off has none."""
        governors = {}
        for path in self._tree.glob(_CPUS + "cpu[0-9]*/cpufreq/scaling_governor"):
            text = self._tree.text(path)
            if text:
                governors[path[len(_CPUS) :].partition("/")[0]] = text
        return governors

    def is_now(self, name: str) -> bool:
        """See `Setting.is_now`: on all processors."""
        return set(self.now().values()) == {name}

    def check(self, name: str) -> None:
        """See `Setting.check`."""
        cpus = sorted(self.now())
        if not cpus:
            raise TaskError("the board has no governors to set: leave `governor` out")
        for cpu in cpus:
            available = self._tree.text(_CPUS + cpu + "/cpufreq/scaling_available_governors")
            if available is not None and name not in available.split():
                raise TaskError(
                    "the board has no governor %s: choose one of %s" % (name, available)
                )
        paths = [self._path(cpu) for cpu in cpus]
        if not all(os.access(path, os.W_OK) for path in paths) and not _sudo_may("tee", *paths):
            raise TaskError(_REFUSED % ("governor", "sudo tee " + self._path("cpu*"), "governor"))

    def set(self, values: Any) -> None:
        """See `Setting.set`."""
        if not isinstance(values, dict):
            values = dict.fromkeys(self.now(), values)
        for name in sorted(set(values.values())):
            paths = [self._path(cpu) for cpu, value in values.items() if value == name]
            if not all(_write(path, name) for path in paths):
                _as_root(["tee"] + paths, name)
        now = self.now()
        if any(now.get(cpu, value) != value for cpu, value in values.items()):
            raise TaskError(_REFUSED % ("governor", "sudo tee " + self._path("cpu*"), "governor"))

    def undone(self, before: Any, made: List[str]) -> Any:
        """See `Setting.undone`: processor by processor."""
        now = self.now()
        return {
            cpu: value
            for cpu, value in before.items()
            if re.match(r"cpu\d+$", cpu) and now.get(cpu) in made and now.get(cpu) != value
        }

    def _path(self, cpu: str) -> str:
        return os.path.join(self._tree.root, _CPUS, cpu, "cpufreq", "scaling_governor")


class PowerMode(Setting):
    """A Jetson's power mode, by its name."""

    key = "power_mode"

    def __init__(self, board: Board) -> None:
        self._board = board

    def now(self) -> Optional[str]:
        """Return the mode's name for `nvpmodel`."""
        return self._board.power_mode()

    def is_now(self, name: str) -> bool:
        """See `Setting.is_now`."""
        return _plain(self.now() or "") == _plain(name)

    def check(self, name: str) -> None:
        """See `Setting.check`."""
        if self.now() is None:
            raise TaskError("the board has no power modes to set: leave `power_mode` out")
        number = self._number(name)
        if os.geteuid() and not _sudo_may("nvpmodel", "-m", number):
            raise TaskError(_REFUSED % ("power mode", "sudo nvpmodel -m " + number, "power_mode"))

    def set(self, name: Any) -> None:
        """See `Setting.set`."""
        number = self._number(name)
        _as_root(["nvpmodel", "-m", number], "")
        if not self.is_now(name):
            raise TaskError(
                "the board stays in power mode %s: `sudo nvpmodel -m %s` may want a restart, so"
                " enter %s by hand" % (self.now(), number, name)
            )

    def undone(self, before: Any, made: List[str]) -> Any:
        """See `Setting.undone`."""
        ours = any(self.is_now(name) for name in made)
        return before if ours and not self.is_now(before) else None

    def _number(self, name: str) -> str:
        text = self._board.tree.text(NVPMODEL) or ""
        numbers: Dict[str, str] = {}
        for number, title in _MODE.findall(text):
            numbers.setdefault(_plain(title), number)
        if _plain(name) not in numbers:
            names = ", ".join(sorted(numbers)) or "none that /%s names" % NVPMODEL
            raise TaskError("the board has no power mode %s: choose one of %s" % (name, names))
        return numbers[_plain(name)]


_REFUSED = (
    "the %s cannot be set: `%s` wants a password or fails; allow it without one, or leave `%s` out"
)


def _plain(mode: str) -> str:
    """A mode's name without what differs between `nvpmodel` and its file."""
    return mode.strip().upper().replace(" ", "_")


def _change(store: str, before: Dict[str, Any], setting: Setting, name: str) -> None:
    if setting.is_now(name):
        return
    setting.check(name)
    entry = before.setdefault(setting.key, {"before": setting.now(), "set": []})
    entry["set"].append(name)
    _keep(store, before)
    setting.set(name)


def _put_back(store: str, before: Dict[str, Any], setting: Setting) -> None:
    entry = before[setting.key]
    values = setting.undone(entry["before"], entry["set"])
    if values:
        try:
            setting.set(values)
        except TaskError as error:
            what = setting.key.replace("_", " ")
            raise TaskError("%s (ktbench set the %s and must put it back)" % (error, what))
    del before[setting.key]
    _keep(store, before)


# ---------------------------------------------------------------- files and programs


def _read(store: str) -> Dict[str, Any]:
    """Return the earlier settings by key; malformed entries are dropped."""
    try:
        with open(os.path.join(store, NAME)) as file:
            content = json.load(file)
    except (OSError, ValueError):
        return {}
    kinds = {"governor": dict, "power_mode": str}
    return {
        key: content[key]
        for key, kind in kinds.items()
        if isinstance(content, dict)
        and isinstance(content.get(key), dict)
        and isinstance(content[key].get("before"), kind)
        and isinstance(content[key].get("set"), list)
        and content[key]["set"]
    }


def _keep(store: str, before: Dict[str, Any]) -> None:
    """Write the file, on the disk before anything is changed; remove it where it would be empty."""
    path = os.path.join(store, NAME)
    if not before:
        if os.path.exists(path):
            os.unlink(path)
        return
    with open(path + ".part", "w") as file:
        json.dump(before, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(path + ".part", path)
    if hasattr(os, "sync"):
        os.sync()


def _write(path: str, text: str) -> bool:
    try:
        with open(path, "w") as file:
            file.write(text)
    except OSError:
        return False
    return True


def _sudo_may(*command: str) -> bool:
    """Tell if `sudo` allows this command without a password."""
    return program("sudo", "-n", "-l", *command) is not None


def _as_root(command: Sequence[str], text: str) -> None:
    """Run a program as root, without ever asking; what came of it is read back by the caller."""
    full: List[str] = list(command) if os.geteuid() == 0 else ["sudo", "-n"] + list(command)
    try:
        subprocess.run(
            full,
            input=text.encode(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=SET_S,
        )
    except (OSError, subprocess.SubprocessError):
        pass
