"""Fixtures for every room, how property tests draw their examples, and what a test's markers need.

Fixtures for boards are in `tests/support`; the markers are explained in `pyproject.toml`.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from tests.support.optional_tools import MISSING, skip_or_fail

if TYPE_CHECKING:
    from tests.support.running import Commands

pytest_plugins = ("tests.support.board_fixtures", "tests.support.emulated_fixtures")
BOARDS = {"sshd", "arm"}
"""Fixtures that start a board: a test that uses one, even by way of another, is marked `board`."""

settings.register_profile(
    "quick",
    deadline=None,  # a busy machine is no fault of a property
    suppress_health_check=[HealthCheck.too_slow],
    max_examples=60,
    derandomize="KTBENCH_CI" in os.environ,  # a failure there is the same failure here
)
settings.load_profile("quick")

# What a shell starts in the background ignores Ctrl-C, and so would every command that a test
# starts and then interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if isinstance(item, pytest.Function) and BOARDS & set(item.fixturenames):
            item.add_marker("board")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker, missing in MISSING.items():
        if item.get_closest_marker(marker) and (reason := missing()):
            skip_or_fail(reason)


@pytest.fixture
def ktbench(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Commands:
    """Return the command line, which runs in this process with a folder and a store of its own."""
    from tests.support.running import Commands

    return Commands(tmp_path, monkeypatch, capsys)
