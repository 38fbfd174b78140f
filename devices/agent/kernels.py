"""Reads back in which arithmetic a model's layers run here, from a run that nothing times."""

import os
import platform
from typing import Any, Dict, List, Optional

from .board import Board
from .runtimes import Options, choose, module


def kernels(task: Dict[str, Any], folder: str) -> Dict[str, Any]:
    """Layers that ran as integers, and all layers, of each of several artifacts.

    An artifact that cannot be run has its error in place of the figures; the others go on.
    """
    runtime = module(choose(task["runtimes"], task["format"]))
    options = Options(task["threads"], task.get("provider", "cpu"), None, None)
    return {
        "artifacts": [_of(runtime, os.path.join(folder, a), options) for a in task["artifacts"]],
        "vnni": vnni(Board()),
    }


def _of(runtime: Any, path: str, options: Options) -> Dict[str, Any]:
    try:
        counted = runtime.load(path, options).kernels()
    except Exception as error:
        return {"error": "%s: %s" % (type(error).__name__, error)}
    if counted is None:
        return {"error": "the runtime does not tell"}
    return {"integer": counted[0], "layers": counted[1]}


def vnni(board: Board) -> Optional[bool]:
    """True where an x86 processor sums products of 8 bits without saturating; None for others."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return None
    text = board.tree.text("proc/cpuinfo") or ""
    lines: List[str] = [line for line in text.splitlines() if line.startswith("flags")]
    flags = set(lines[0].split()) if lines else set()
    return bool(flags & {"avx512_vnni", "avx_vnni"}) if flags else None
