"""Tools that not every machine has: a test without its tool skips with the reason, in CI it fails.

The markers `ray` and `browser` say that a test needs such a tool; `tests/conftest.py` looks for it
before the test's fixtures are set up.
"""

from __future__ import annotations

import importlib
import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

IN_CI = bool(os.environ.get("CI") or os.environ.get("KTBENCH_CI") == "1")
SSHD = Path("/usr/sbin/sshd")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def skip_or_fail(reason: str) -> None:
    """Skip the test for want of a tool; fail it in CI, where every tool is installed."""
    if IN_CI:
        pytest.fail(reason)
    pytest.skip(reason)


class OptionalPackage:
    """A package that is imported when a test first uses it, so that collecting tests is quick."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("_"):  # what pytest and pickle look for in anything
            raise AttributeError(attribute)
        with warnings.catch_warnings():  # the package's own
            warnings.simplefilter("ignore")
            return getattr(importlib.import_module(self._name), attribute)


def _without_package(name: str) -> str | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module(name)
    except ImportError as error:
        return f"this test needs {name}: {error}"
    return None


def _without_browser() -> str | None:
    if CHROMIUM is None:
        return "this test needs Chromium"
    return _without_package("playwright.sync_api")


MISSING: dict[str, Callable[[], str | None]] = {
    "ray": lambda: _without_package("ray"),
    "browser": _without_browser,
}
"""For each marker, what a test with it lacks on this machine, or None."""
