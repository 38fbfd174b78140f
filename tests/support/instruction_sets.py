"""Python processes under a chosen instruction set, whose heap is checked where glibc can."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SETS = {
    "native": {},
    "AVX2": {"ONEDNN_MAX_CPU_ISA": "AVX2"},
    "default": {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "default"},
}
"""Environments by name; `AVX2` is what oneDNN does on processors without AVX-512."""
_DEBUG = "libc_malloc_debug.so.0"


def _checked() -> dict[str, str]:
    """Return variables that let glibc end a process at a damaged heap block; none elsewhere."""
    try:
        ctypes.CDLL(_DEBUG)
    except OSError:
        return {}
    return {"LD_PRELOAD": _DEBUG, "MALLOC_CHECK_": "3"}


def python(
    arguments: list[str], under: str, *, checked: bool = True, timeout: float = 600
) -> subprocess.CompletedProcess[str]:
    """Run Python to its end in the repository's root; nothing is raised when it fails."""
    return subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1"} | (_checked() if checked else {}) | SETS[under],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
