"""The installed copy or checkout that this process runs: its version and where it lies."""

from __future__ import annotations

import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The folder that holds `ktbench/`: a checkout, or the environment's site-packages."""


def _version() -> str:
    try:
        return version("ktbench")
    except PackageNotFoundError:  # A checkout on PYTHONPATH, as a Ray node may have it.
        text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
        return str(tomllib.loads(text)["project"]["version"])


VERSION = _version()
