"""A login that does not lead to a working shell is told in one line that says what to do."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ktbench.devices._contract import host_objection
from ktbench.measure import check
from ktbench.records import DeviceSpec
from tests.support.boards import SshBoard, login
from tests.support.optional_tools import skip_or_fail

GO_ON = 'exec sh -c "$SSH_ORIGINAL_COMMAND"'


def problem(host: str) -> str:
    """The one line that `ktbench devices check` has of a host."""
    [line] = check(DeviceSpec(profile="ssh", name=host, host=host)).problems
    assert line.isprintable() and len(line) < 400
    return line


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "script", "parts"),
    [
        (
            "nologin",
            "exec /usr/sbin/nologin",
            ["This account is currently not available", "use an account that has a shell"],
        ),
        ("closed", "echo 'Closed until Monday.'; exit 1", ["Closed until Monday.", "exit code 1"]),
        (
            "loud",
            f"head -c 200000 /dev/zero | tr '\\0' x; {GO_ON}",
            ["a start-up file of its shell may print too much"],
        ),
        (
            "read-only",
            f"unset XDG_CACHE_HOME; export HOME=/sys; {GO_ON}",
            ["/sys/.cache", "make that writable", "XDG_CACHE_HOME"],
        ),
        (
            "homeless",
            f"unset XDG_CACHE_HOME; export HOME=/nonexistent; {GO_ON}",
            ["home folder /nonexistent", "does not exist", "make it"],
        ),
        ("no-python", 'PATH=/nonexistent exec /bin/sh -c "$SSH_ORIGINAL_COMMAND"', ["no python3"]),
    ],
)
def test_a_shell_that_does_not_do_its_work_is_told_with_what_to_do(
    board: SshBoard, name: str, script: str, parts: list[str]
) -> None:
    line = problem(login(board, name, script))
    for part in parts:
        assert part in line


@pytest.mark.slow
def test_a_python_2_that_is_called_python3_is_told(board: SshBoard, tmp_path: Path) -> None:
    old = tmp_path / "python3"
    old.write_text("#!/bin/sh\necho 'Unknown option: -I' >&2\nexit 2\n")
    old.chmod(0o755)
    line = problem(login(board, "old", f"export PATH={tmp_path}:$PATH; {GO_ON}"))
    assert "older than Python 3.6" in line and "install a newer one" in line


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "script"), [("waiting", "exec sleep 1000"), ("reading", f"read answer; {GO_ON}")]
)
def test_a_start_up_file_that_waits_for_input_is_given_up_soon_with_its_reason(
    board: SshBoard, monkeypatch: pytest.MonkeyPatch, name: str, script: str
) -> None:
    monkeypatch.setattr("ktbench.devices.transport._exchange.START_S", 2.0)
    line = problem(login(board, name, script))
    assert "no answer within 2 s" in line and "a start-up file of its shell may wait" in line


@pytest.mark.slow
def test_a_start_up_file_that_prints_a_little_costs_nothing(board: SshBoard) -> None:
    name = login(board, "greeting", f"printf 'Welcome\\033[1m to pi!\\n'; {GO_ON}")
    answer = check(DeviceSpec(profile="ssh", name=name, host=name))
    assert answer.facts is not None


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system without space."""
    if os.getuid() != 0:
        skip_or_fail("this test needs root to mount a small disk")
    disk = tmp_path / "disk"
    disk.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"this test needs to mount a small disk: {done.stderr.strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


@pytest.mark.slow
def test_a_board_without_space_is_told_so(board: SshBoard, full_disk: Path) -> None:
    line = problem(login(board, "full", f"export XDG_CACHE_HOME={full_disk}; {GO_ON}"))
    assert "no space is left on the board: free some" in line


@pytest.mark.slow
def test_names_that_lead_nowhere_are_told_with_what_to_do(board: SshBoard) -> None:
    with board.config.open("a") as file:
        file.write("\nHost lost\n  HostName no-such-name.invalid\n")
    assert "HostName" in problem("lost") and "no such name is known" in problem("lost")
    assert "start its SSH server" in problem("nowhere")
    assert "ssh-keygen -R" in problem("impostor")
    assert "log in once by hand" in problem("stranger")
    assert "a key must work without a password" in problem("locked")


@pytest.mark.parametrize(
    ("host", "said"),
    [
        ("user@host:22", "give 'user@host' alone, with `Port 22`"),
        ("pi:2222", "give 'pi' alone, with `Port 2222`"),
        ("[::1]:22", "names a port"),
        ("ssh://pi", "is a URL"),
        ("ssh://me@pi:22/", "is a URL"),
        ("-oProxyCommand=x", "is not a valid host name"),
        ("a b", "is not a valid host name"),
        ("pi\x1b[2J", "'pi?[2J' is not a valid host name"),
    ],
)
def test_what_ssh_cannot_take_for_a_host_is_told_with_what_to_write(host: str, said: str) -> None:
    reason = host_objection(host)
    assert reason is not None and said in reason and reason.isprintable()


@pytest.mark.parametrize("host", ["pi", "me@pi.local", "192.168.1.7", "fe80::1%eth0", "::1"])
def test_what_ssh_takes_for_a_host_is_let_through(host: str) -> None:
    assert host_objection(host) is None
