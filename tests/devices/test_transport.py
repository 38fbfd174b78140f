"""The way to a device: what is sent, what is believed of the answers, and what goes wrong."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from ktbench.devices._contract import Blob, DeviceError
from ktbench.devices.agent import protocol
from ktbench.devices.transport._exchange import LOADER, Exchange, agent_archive, bootstrap
from ktbench.devices.transport.local import LocalTransport
from ktbench.devices.transport.ssh import COMMAND, SshTransport, command

PROBE = {"task": "probe"}


# ---------------------------------------------------------------- a device that lies


def played(script: str, blobs: tuple[Blob, ...] = ()) -> dict[str, Any]:
    """What the host makes of a device that runs this script in place of the agent's loader."""
    text = f"import os, struct, sys\nfrom ktbench.devices.agent import protocol as p\n{script}"
    return played_by([sys.executable, "-c", text], blobs)


def played_by(arguments: list[str], blobs: tuple[Blob, ...] = ()) -> dict[str, Any]:
    exchange = Exchange(arguments, root=None, python=None, explain=lambda code, errors: None)
    return exchange.run(PROBE, blobs, limit_s=10)


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("os.write(1, b'x' * 200_000)", "no message where one should begin"),
        ("os.write(1, p.MARK + b'\\xff' * 8)", "over the limit"),
        ("os.write(1, p.MARK + struct.pack('>I', 4) + b'oops')", "not JSON"),
        ("os.write(1, p.MARK + struct.pack('>I', 3) + b'NaN')", "not JSON"),
        ("os.write(1, p.MARK + struct.pack('>I', 6000) + b'[' * 6000)", "not JSON"),
        ("p.send([1])", "not a JSON object"),
        ("p.send({})", "no 'missing'"),
        ("p.send({'missing': 'all'})", "is none"),
        ("p.send({'missing': ['../../etc/passwd']})", "not offered"),
        ("p.send({'missing': []}); p.send({'ok': 7})", "no JSON object"),
        ("p.send({'missing': []})", "ended without an answer"),
        ("sys.exit('cannot load\\x1b[2J libfoo.so')", "exit code 1): cannot load [2J libfoo.so"),
        ("os.kill(os.getpid(), 9)", "signal 9, as when memory runs out"),
        ("p.send({'error': 'no\\x1b[31m red ' + 'x' * 9999})", "no [31m red xxx"),
    ],
)
def test_a_malformed_answer_becomes_one_plain_line(script: str, said: str) -> None:
    with pytest.raises(DeviceError) as caught:
        played(script)
    message = str(caught.value)
    assert said in message
    assert message.isprintable() and len(message) < 600


def test_what_a_login_shell_prints_first_is_passed_over() -> None:
    script = (
        "print('Welcome to pi!', flush=True); p.send({'missing': []}); p.send({'ok': {'a': 1}})"
    )
    assert played(script) == {"a": 1}


def test_a_device_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ktbench.devices.transport._exchange.START_S", 0.0)
    exchange = Exchange(
        [sys.executable, "-c", "import time; time.sleep(60)"],
        root=None,
        python=None,
        explain=lambda code, errors: None,
    )
    with pytest.raises(DeviceError, match="no answer within") as caught:
        exchange.run(PROBE, [], limit_s=0.2)
    assert caught.value.lost


# ---------------------------------------------------------------- a host that lies


def received(tmp_path: Path, **changes: Any) -> dict[str, Any]:
    """What a board answers to a request with these changes."""
    request = {
        "version": protocol.VERSION,
        "root": str(tmp_path / "store"),
        "python": None,
        "agent": agent_archive().digest,
        "files": [],
        **changes,
    }
    done = subprocess.run(
        [sys.executable, "-I", "-c", LOADER],
        input=bootstrap() + protocol.pack(request),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    return protocol.read_frame(io.BytesIO(done.stdout).read)


@pytest.mark.parametrize("name", ["../escape", "/etc/passwd", "A" * 64, "a" * 63, "a" * 64 + "\n"])
def test_a_board_takes_no_file_whose_name_is_not_a_digest(tmp_path: Path, name: str) -> None:
    assert "no digest" in received(tmp_path, files=[[name, 3]])["error"]
    assert "no digest" in received(tmp_path, agent=name)["error"]
    assert not (tmp_path / "store").exists()


def test_a_board_refuses_another_version_of_the_protocol(tmp_path: Path) -> None:
    assert "version 99" in received(tmp_path, version=99)["error"]


def test_a_file_that_arrives_damaged_is_not_kept(tmp_path: Path) -> None:
    blob = Blob.of(b"weights")
    request = {
        "version": protocol.VERSION,
        "root": str(tmp_path),
        "python": None,
        "agent": blob.digest,
        "files": [[blob.digest, len(blob.data)]],
    }
    done = subprocess.run(
        [sys.executable, "-I", "-c", LOADER],
        input=bootstrap() + protocol.pack(request) + b"weighty",
        stdout=subprocess.PIPE,
    )
    read = io.BytesIO(done.stdout).read
    assert protocol.read_frame(read) == {"missing": [blob.digest]}
    assert "damaged" in protocol.read_frame(read)["error"]
    assert list(tmp_path.iterdir()) == []


def test_the_store_knows_a_file_by_its_content_not_its_name(tmp_path: Path) -> None:
    blob = Blob.of(b"weights")
    (tmp_path / blob.digest).write_bytes(b"wei")
    assert not protocol.holds(str(tmp_path), blob.digest)
    (tmp_path / blob.digest).write_bytes(blob.data)
    assert protocol.holds(str(tmp_path), blob.digest)


def test_the_store_drops_the_longest_unused_files_first_and_none_that_is_wanted(
    tmp_path: Path,
) -> None:
    blobs = [Blob.of(bytes([n]) * 100) for n in range(4)]
    for age, blob in enumerate(blobs):
        (tmp_path / blob.digest).write_bytes(blob.data)
        os.utime(tmp_path / blob.digest, (1000 + age, 1000 + age))
    (tmp_path / "mine.txt").write_text("not the store's")
    protocol.prune(str(tmp_path), keep=[blobs[0].digest], limit=250)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {blobs[0].digest, blobs[3].digest, "mine.txt"}


# ---------------------------------------------------------------- this machine


@pytest.mark.slow
def test_a_file_that_the_device_holds_is_not_sent_again() -> None:
    big = Blob.of(b"w" * 1_000_000)
    transport = LocalTransport()
    try:
        transport.run(PROBE, [big], 30)
        # A blob with the right digest and no data could not be stored if it were sent.
        answer = transport.run(PROBE, [Blob(big.digest, b"")], 30)
    finally:
        transport.close()
    assert answer["runtimes"]


def test_the_agent_is_the_same_bytes_every_time() -> None:
    first = agent_archive().digest
    agent_archive.cache_clear()
    assert agent_archive().digest == first


def test_an_interpreter_that_is_not_there_is_named() -> None:
    transport = LocalTransport("no-such-python")
    with pytest.raises(DeviceError, match="cannot start the interpreter no-such-python: No such"):
        transport.run(PROBE, [], 30)
    transport.close()


def test_an_interpreter_that_is_none_is_an_error_not_a_hang() -> None:
    transport = LocalTransport("/bin/false")
    with pytest.raises(DeviceError, match=r"ended without an answer \(exit code 1\)"):
        transport.run(PROBE, [], 30)
    transport.close()


# ---------------------------------------------------------------- ssh


@pytest.mark.parametrize(
    "host",
    ["-oProxyCommand=touch x", "; rm -rf ~", "a b", "$(id)", "me@-oX", "pi\n", "`id`", "", None],
)
def test_a_host_that_ssh_or_a_shell_could_take_for_something_else_is_refused(
    host: str | None,
) -> None:
    with pytest.raises(DeviceError, match="host"):
        SshTransport(host)


@pytest.mark.parametrize("host", ["pi", "pi@192.168.0.7", "board-1.lab.example", "fe80::1%eth0"])
def test_the_command_line_holds_nothing_but_constants_and_the_host(host: str) -> None:
    arguments = command(host)
    assert arguments[-3:] == ["--", host, COMMAND]
    assert command("other")[:-2] == arguments[:-2]


def test_nothing_is_forwarded_and_nothing_is_asked() -> None:
    given = command("pi")
    options = {value for flag, value in pairwise(given) if flag == "-o"}
    wanted = {"ForwardAgent=no", "ForwardX11=no", "ClearAllForwardings=yes", "BatchMode=yes"}
    assert wanted <= options
    assert not any(option.startswith("StrictHostKeyChecking") for option in options)


@pytest.mark.slow
def test_a_board_answers_over_ssh(board: Any) -> None:
    with closing(SshTransport("board", sys.executable)) as transport:
        answer = transport.run(PROBE, [], 30)
    assert answer["interpreter"] == sys.executable
    assert (board.store / agent_archive().digest).exists()


@pytest.mark.parametrize(
    ("host", "said", "lost"),
    [
        ("impostor", "another host key than the one known", False),
        ("stranger", "host key of stranger is not known", False),
        ("locked", "locked refuses the login", False),
        ("nowhere", "cannot reach nowhere: .*Connection refused", True),
        ("no-such-host.invalid", "cannot reach no-such-host.invalid: .*resolve", True),
    ],
)
def test_a_board_that_cannot_be_had_over_ssh_says_why(
    board: Any, host: str, said: str, lost: bool
) -> None:
    with pytest.raises(DeviceError, match=said) as caught, closing(SshTransport(host)) as transport:
        transport.run(PROBE, [], 30)
    assert caught.value.lost is lost
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("signal", "said"), [(9, "exit code 137, as when memory runs out"), (14, "not done after 30 s")]
)
@pytest.mark.slow
def test_an_agent_that_was_killed_is_no_lost_connection(
    board: Any, tmp_path: Path, signal: int, said: str
) -> None:
    dying = tmp_path / "python"
    dying.write_text(f"#!/bin/sh\nkill -{signal} $$\n")
    dying.chmod(0o755)
    with pytest.raises(DeviceError) as caught, closing(SshTransport("board", str(dying))) as way:
        way.run(PROBE, [], 30)
    assert said in str(caught.value) and not caught.value.lost


@pytest.mark.slow
def test_names_that_a_shell_would_act_on_reach_no_shell(board: Any, tmp_path: Path) -> None:
    pwned = tmp_path / "pwned"
    transport = SshTransport("board", f"; touch {pwned}; '\"`touch {pwned}`$(touch {pwned})")
    with pytest.raises(DeviceError, match="cannot start the interpreter"), closing(transport):
        transport.run(PROBE, [], 30)
    assert not pwned.exists()
