"""Facts of a board that decide which runtimes fit it."""

import importlib.util
import os
import shutil
import sys
from typing import Any, Dict, List

from . import environment, hold


def look(store: str) -> Dict[str, Any]:
    """Interpreter, architecture, C library, JetPack, free space, and what is installed."""
    present = environment.current(store)
    return {
        "interpreter": sys.executable,
        "python": list(sys.version_info[:3]),
        "implementation": sys.implementation.name,
        "own_environment": sys.prefix != sys.base_prefix,
        "machine": environment.machine(),
        "libc": _libc(),
        "l4t": _first_line("/etc/nv_tegra_release"),
        "free_bytes": shutil.disk_usage(store).free,
        "pip": importlib.util.find_spec("pip") is not None,
        "numpy": _own_numpy(),
        "environment": present[1] if present else None,
        "misfit": environment.misfit(present[1]) if present else None,
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
    """Version of the numpy that the board's interpreter has without the environment."""
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
