"""The command line as a fixture; a plugin of its own, as `boards` and its fixtures are."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.running import Commands


@pytest.fixture
def ktbench(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Commands:
    return Commands(tmp_path, monkeypatch, capsys)
