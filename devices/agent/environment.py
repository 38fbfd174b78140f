"""A board's own environment: what is there, and wheels unpacked into one folder, without pip.

A wheel is a zip file whose content goes to one folder (PEP 427). An environment is made under a
temporary name, flushed and renamed; only then does the file `current` name it, so that a loss of
power leaves the one before, or none.
"""

import hashlib
import importlib.util
import json
import os
import platform
import shutil
import sys
import tempfile
import zipfile
from typing import Any, Dict, List, Optional, Tuple

from . import hold, protocol

FOLDER = "environments"
CURRENT = "current"
ABOUT = "ktbench-environment.json"
_PART = ".part-"
_LIBRARIES = ("purelib", "platlib")


def look(store: str) -> Dict[str, Any]:
    """Interpreter, architecture, C library, JetPack, free space, and what is installed."""
    present = current(store)
    return {
        "interpreter": sys.executable,
        "python": list(sys.version_info[:3]),
        "implementation": sys.implementation.name,
        "own_environment": sys.prefix != sys.base_prefix,
        "machine": machine(),
        "libc": _libc(),
        "l4t": _first_line("/etc/nv_tegra_release"),
        "free_bytes": shutil.disk_usage(store).free,
        "pip": importlib.util.find_spec("pip") is not None,
        "numpy": _own_numpy(),
        "environment": present[1] if present else None,
        "misfit": misfit(present[1]) if present else None,
        "holder": hold.holder(store),
    }


def _libc() -> List[str]:
    """Name and version of the GNU C library, as it tells itself; empty texts for any other."""
    try:
        name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
    except (AttributeError, OSError, ValueError):
        name = version = ""
    return [name, version]


def _own_numpy() -> Any:
    """Version of the numpy that the board's interpreter has outside of the environment."""
    try:
        import numpy

        return str(numpy.__version__)
    except ImportError:
        return None


def _first_line(path: str) -> Any:
    if not os.path.exists(path):
        return None
    with open(path, errors="replace") as file:
        return file.readline(200).strip()


def machine() -> str:
    """The architecture that programs are built for: a 64-bit kernel may carry a 32-bit system."""
    name = platform.machine()
    narrow = {"aarch64": "armv7l", "armv8l": "armv7l", "x86_64": "i686"}
    return name if sys.maxsize > 2**32 else narrow.get(name, name)


def current(store: str) -> Optional[Tuple[str, Dict[str, Any]]]:
    """The folder of the environment and what it says of itself, or None where there is none."""
    try:
        with open(os.path.join(store, FOLDER, CURRENT)) as file:
            name = file.read(100).strip()
        if not protocol.is_digest(name):
            return None
        folder = os.path.join(store, FOLDER, name)
        with open(os.path.join(folder, ABOUT)) as file:
            return folder, json.load(file)
    except (OSError, ValueError):
        return None


def misfit(about: Dict[str, Any]) -> Optional[str]:
    """Explain why this interpreter does not use an environment; None if it does."""
    if sys.prefix != sys.base_prefix:
        return "this interpreter has an environment of its own"
    made_for = [about.get("python"), about.get("machine")]
    if made_for != [list(sys.version_info[:2]), machine()]:
        return "it was made for another Python or architecture"
    return None


def enter(store: str) -> None:
    """Put the environment first on the import path, if there is one for this interpreter."""
    present = current(store)
    if present is not None and misfit(present[1]) is None:
        sys.path.insert(0, present[0])


def install(task: Dict[str, Any], store: str) -> Dict[str, Any]:
    """Make the environment of these wheels, `[[file name, digest], ...]`, the current one.

    They lie in the store, whose files were read against their digest just before; once unpacked
    they go, and so does every other environment.
    """
    wheels = [(str(name), digest) for name, digest in task["wheels"]]
    if not all(protocol.is_digest(digest) for _, digest in wheels):
        raise protocol.TaskError("a wheel's name is no digest")
    about = {
        "python": list(sys.version_info[:2]),
        "machine": machine(),
        "wheels": [[name, digest] for name, digest in sorted(wheels)],
    }
    text = json.dumps(about, sort_keys=True)
    name = hashlib.sha256(text.encode()).hexdigest()
    parent = os.path.join(store, FOLDER)
    os.makedirs(parent, exist_ok=True)
    sweep(parent, keep=name)
    part = tempfile.mkdtemp(prefix=_PART, dir=parent)
    try:
        left = int(task["bytes"])
        for _, digest in wheels:
            left -= unpack(os.path.join(store, digest), part, left)
        _write(os.path.join(part, ABOUT), text)
        _adopt(parent, part, name)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    sweep(parent, keep=name)
    for _, digest in wheels:
        _forget(os.path.join(store, digest))
    return {"environment": name, "bytes": int(task["bytes"]) - left}


def _adopt(parent: str, part: str, name: str) -> None:
    """Give a finished environment its name, and make it the current one."""
    final = os.path.join(parent, name)
    shutil.rmtree(final, ignore_errors=True)
    if hasattr(os, "sync"):
        os.sync()
    os.rename(part, final)
    _write(os.path.join(parent, _PART + CURRENT), name)
    os.replace(os.path.join(parent, _PART + CURRENT), os.path.join(parent, CURRENT))
    if hasattr(os, "sync"):
        os.sync()


def unpack(wheel: str, folder: str, limit: int) -> int:
    """Unpack a wheel; returns its bytes. TaskError past `limit`, and for a name that escapes."""
    done = 0
    try:
        with zipfile.ZipFile(wheel) as archive:
            for info in archive.infolist():
                path = member_path(info.filename)
                if path is None or info.filename.endswith("/"):
                    continue
                done += info.file_size
                if done > limit:
                    raise protocol.TaskError("a wheel holds more than the host announced")
                target = os.path.join(folder, *path)
                os.makedirs(os.path.dirname(target), exist_ok=True)
                with archive.open(info) as source, open(target, "wb") as file:
                    shutil.copyfileobj(source, file, protocol.CHUNK)
    except zipfile.BadZipFile as error:
        raise protocol.TaskError("a wheel is no zip file: %s" % error)
    return done


def member_path(name: str) -> Optional[List[str]]:
    """Return the place of a wheel's member below the folder; None for what only pip uses.

    TaskError for a name that could lead out of the folder.
    """
    parts = [part for part in name.split("/") if part]
    if name.startswith("/") or "\\" in name or "\0" in name or ":" in name or ".." in parts:
        raise protocol.TaskError("a wheel holds a file that would escape: %r" % name)
    if not parts or parts[0] in (ABOUT,):
        return None
    if parts[0].endswith(".data"):  # scripts, headers and data are no part of a library
        return parts[2:] if len(parts) > 2 and parts[1] in _LIBRARIES else None
    return parts


def sweep(parent: str, keep: str) -> None:
    """Remove other environments, and what an installation that was cut short left."""
    for entry in os.listdir(parent):
        if entry.startswith(_PART) or (protocol.is_digest(entry) and entry != keep):
            _forget(os.path.join(parent, entry))


def remove(store: str) -> Dict[str, Any]:
    """Remove all that ktbench has on the board, folders that it made for itself included."""
    folders = protocol.made_folders(store)
    size = sum(
        os.lstat(os.path.join(folder, name)).st_size
        for folder, _, names in os.walk(store)
        for name in names
    )
    shutil.rmtree(store)
    path = store
    for _ in range(folders - 1):
        path = os.path.dirname(path)
        try:
            os.rmdir(path)
        except OSError:  # somebody else's files are in it
            break
    return {"removed": size}


def _forget(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path, ignore_errors=True)
    elif os.path.lexists(path):
        os.unlink(path)


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
