"""Fixtures of the emulated board: one per session, set up from nothing and cleared again."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ktbench.boards import look_at, set_up, take_down
from ktbench.devices.transport.ssh import SshTransport
from tests.support.emulated import WANTED, EmulatedBoard, running_board, wanted
from tests.support.emulated_image import folder, missing
from tests.support.optional_tools import skip_or_fail

LISTING = 'cd ~; python3 -c "import os; print(*sorted(os.path.join(d, f) for d, ds, fs in ' + (
    "os.walk('.') for f in ds + fs), sep=chr(10))\""
)


@pytest.fixture(scope="session")
def arm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmulatedBoard]:
    """A booted board, not set up yet."""
    if not wanted():
        pytest.skip(f"an emulated board takes minutes: set {WANTED}=1")
    reason = missing()
    if reason:
        skip_or_fail(f"no emulated board: {reason}")
    with running_board(tmp_path_factory.mktemp("board")) as board:
        yield board


@pytest.fixture(scope="session")
def ready(arm: EmulatedBoard) -> Iterator[EmulatedBoard]:
    """The board with its runtimes, set up from nothing; checks that nothing is left of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KTBENCH_SSH_CONFIG", str(arm.config))
        patch.setenv("KTBENCH_CACHE", str(folder().parent))
        before = arm.ssh(LISTING).stdout
        assert ".ssh" in before
        transport = SshTransport("board")
        assert look_at(transport).environment is None
        set_up(transport, "board", lambda line: None)
        transport.close()
        yield arm
        transport = SshTransport("board")
        take_down(transport, "board")
        transport.close()
        assert arm.ssh(LISTING).stdout == before


@pytest.fixture
def reached(ready: EmulatedBoard, monkeypatch: pytest.MonkeyPatch) -> EmulatedBoard:
    """The board that is set up, which SSH reaches as `board`."""
    monkeypatch.setenv("KTBENCH_SSH_CONFIG", str(ready.config))
    return ready
