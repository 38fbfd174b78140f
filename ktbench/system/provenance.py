"""Provenance of a record: the commit, versions and machine that made it.

Versions are read from the installed packages' metadata, so that nothing heavy is imported.
"""

from __future__ import annotations

import os
import platform
import socket
import subprocess
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path

from ktbench.networks.instruction_set import instruction_set
from ktbench.records import Provenance
from ktbench.system import installation

DISTRIBUTIONS = (
    "torch",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "litert-torch",
    "safetensors",
    "ai-edge-quantizer",
    "ai-edge-litert",
    "datasets",
    "scikit-learn",
    "numpy",
    "pillow",
    "pandas",
    "pyarrow",
    "scipy",
    "matplotlib",
    "pydantic",
    "PyYAML",
    "typer",
    "rich",
    "jinja2",
    "psutil",
)
"""Names of the packages that ktbench depends on, as installers know them."""


def collect(data_digest: str | None = None) -> Provenance:
    """Describe this checkout, these versions, this machine and the time (UTC, to the second)."""
    return Provenance(
        ktbench=installation.VERSION,
        commit=_commit(),
        python=platform.python_version(),
        machine=platform.machine(),
        processor=processor(),
        instruction_set=instruction_set(),
        cores=cores(),
        system=f"{platform.system()} {platform.release()}",
        versions=_versions(),
        data_digest=data_digest,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def host() -> str:
    """Return this machine's name on its network."""
    return socket.gethostname()


def boot_id() -> str:
    """Return an id shared by all processes of one running kernel; empty where unknown."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


@cache
def _commit() -> str | None:
    """Return the checkout's commit, with `+changes` when files differ from it; None without one."""
    root = installation.ROOT
    if not (root / ".git").exists():
        return None  # An installed copy: a repository further up is not ours.
    head = _git(root, "rev-parse", "HEAD")
    if head is None:
        return None
    return f"{head}+changes" if _git(root, "status", "--porcelain") else head


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def processor() -> str:
    """Return the processor's model name."""
    return _cpu_info("model name") or platform.processor() or "unknown"


@cache
def _cpu_info(name: str) -> str:
    """Read what the kernel tells of the first processor; empty where it tells nothing."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == name:
                return " ".join(value.split())
    except (OSError, UnicodeDecodeError):
        pass
    return ""


def cores() -> int:
    """Count the cores that this process may run on."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


@cache
def _version_of(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _versions() -> dict[str, str]:
    versions = {name: _version_of(name) for name in DISTRIBUTIONS}
    return {name: version for name, version in versions.items() if version is not None}
