"""What docs/devices.md promises of security, as far as no other test holds it."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ktbench.devices._contract import Blob, DeviceError
from ktbench.devices.transport._exchange import LOADER, Exchange, agent_archive
from ktbench.devices.transport.fake import FakeTransport, made_up
from ktbench.measure import check
from ktbench.measure.agent_schema import Probe, parse
from ktbench.records import DeviceSpec
from tests.support.boards import HomeBoard, base_python

AGENT = sorted(Path("devices/agent").rglob("*.py"))


# ---------------------------------------------------------------- the agent


@pytest.mark.parametrize("path", AGENT, ids=lambda p: p.name)
def test_the_agent_opens_no_port_unpickles_nothing_and_runs_no_text(path: Path) -> None:
    network = {"socket", "socketserver", "http", "urllib", "ftplib", "xmlrpc", "asyncio", "ssl"}
    loading = {"pickle", "marshal", "shelve", "dbm", "multiprocessing", "code", "runpy"}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.partition(".")[0] for name in names} & (network | loading)
        if isinstance(node, ast.Call):
            assert "shell" not in {keyword.arg for keyword in node.keywords}, node.lineno
            if isinstance(node.func, ast.Name):
                assert node.func.id not in ("eval", "exec", "compile"), node.lineno
            if isinstance(node.func, ast.Attribute):
                assert node.func.attr not in ("system", "popen", "getoutput"), node.lineno
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            assert isinstance(node.value, ast.Constant) and node.value.value is False


def test_only_what_sets_a_boards_settings_ever_asks_to_be_root() -> None:
    asking = {path.name for path in AGENT if '"sudo"' in path.read_text()}
    assert asking == {"settings.py"}


@pytest.mark.slow
def test_an_agent_without_root_looks_measures_its_board_and_lets_go(tmp_path: Path) -> None:
    drop = (
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if not os.getuid() else []
    )
    if drop and not shutil.which("setpriv"):
        pytest.skip("there is no setpriv to become nobody with")
    home = Path("/tmp") / f"ktbench-nobody-{os.getpid()}"
    home.mkdir(mode=0o777)
    home.chmod(0o777)
    board = HomeBoard(home, base_python())
    words = [*drop, "/usr/bin/env", "-i", "/usr/bin/python3", "-I", "-c", LOADER]
    board._exchange = Exchange(
        words, root=str(home / "store"), python=None, explain=lambda code, errors: None
    )
    try:
        lease = {"owner": "a", "holder": "a", "seconds": 60}
        assert board.run({"task": "look", "lease": lease})["machine"]
        assert board.run({"task": "probe", "lease": lease})["processors"] >= 1
        assert (home / "store").stat().st_uid == (65534 if drop else os.getuid())
        assert (home / "store").stat().st_mode & 0o077 == 0, "nobody else reads or writes there"
        assert board.run({"task": "remove"})["removed"] > 0
        assert not list(home.iterdir())
    finally:
        shutil.rmtree(home)


@pytest.mark.slow
def test_an_agent_that_was_changed_on_the_board_is_replaced_before_it_can_run(
    bare: HomeBoard, tmp_path: Path
) -> None:
    bare.run({"task": "look"})
    agent = bare.store / agent_archive().digest
    agent.write_text(f"open({str(tmp_path / 'pwned')!r}, 'w')")
    assert bare.run({"task": "look"})["machine"]
    assert agent.read_bytes() == agent_archive().data and not (tmp_path / "pwned").exists()


# ---------------------------------------------------------------- what a board answers


def played_series(script: str) -> list[Any]:
    """What the host makes of a series on a device that runs this script."""
    text = (
        "import os, struct, sys\nfrom ktbench.devices.agent import protocol as p\n"
        f"p.send({{'missing': []}})\n{script}"
    )
    exchange = Exchange(
        [sys.executable, "-c", text], root=None, python=None, explain=lambda code, errors: None
    )
    return list(exchange.series({"task": "series", "tasks": [{}, {}]}, [], [5, 5]))


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("p.send({'part': 1})", "out of turn"),
        ("p.send({'part': '../0'})", "out of turn"),
        ("p.send({'ok': {}})", "no 'part'"),
        ("p.send({'part': 0}); os.write(1, p.MARK + b'\\xff' * 8)", "over the limit"),
        ("p.send({'part': 0})", "ended without an answer"),
        ("p.send({'part': 0}); os.write(1, b'x' * 200_000)", "no message where one should begin"),
        ("p.send({'error': 'held by\\x1b[2J bob'})", "held by [2J bob"),
    ],
)
def test_a_malformed_series_ends_in_one_plain_line(script: str, said: str) -> None:
    with pytest.raises(DeviceError) as caught:
        played_series(script)
    message = str(caught.value)
    assert said in message and message.isprintable() and len(message) < 600


@pytest.mark.parametrize(
    ("lie", "said"),
    [
        ("p.send({'ok': [1]})", "no JSON object"),
        ("p.send({'ended': 'x', 'words': 3})", "no 'ok'"),
        ("os.write(1, p.frame(b'rm -rf ~'))", "not JSON"),
        ('os.write(1, p.frame(b\'{"ok": {"load_ns": NaN}}\'))', "not JSON"),
        ("os.write(1, p.frame(b'[' * 6000))", "not JSON"),
    ],
)
def test_an_answer_that_makes_no_sense_costs_its_own_task_where_its_end_is_known(
    lie: str, said: str
) -> None:
    rest = "p.send({'part': 1}); p.send({'ok': {'a': 1}}); p.send({'ok': {}})"
    first, second = played_series(f"p.send({{'part': 0}}); {lie}; {rest}")
    assert said in str(first) and str(first).isprintable()
    assert second == {"a": 1}


def test_a_dead_process_in_a_series_is_told_in_plain_words() -> None:
    script = (
        "p.send({'part': 0}); p.send({'ended': -4, 'words': 'Illegal\\x1b[31m instruction'})\n"
        "p.send({'part': 1}); p.send({'ok': {'a': 1}}); p.send({'ok': {}})"
    )
    first, second = played_series(script)
    assert str(first) == "the agent ended without an answer (signal 4): Illegal [31m instruction"
    assert second == {"a": 1}


def test_what_a_board_says_of_itself_reaches_no_terminal_as_a_command_and_is_bounded() -> None:
    evil = "Pi\x1b]0;owned\x07\x1b[2J\u202e"

    def answer(task: dict[str, Any], blobs: Sequence[Blob]) -> dict[str, Any]:
        found = made_up(task, blobs)
        state = {"governor": evil, evil: [{"a": evil}]}
        return {**found, "facts": {"model": evil}, "state": state, "interpreter": evil}

    found = check(DeviceSpec(profile="fake", name="fake"), FakeTransport(answer))
    assert found.facts and found.state
    text = json.dumps([found.facts, found.state, found.problems, found.warnings, found.advice])
    assert json.loads(text) and "Pi ]0;owned" in text
    assert all(mark not in text for mark in ("\\u001b", "\\u0007", "\\u202e"))
    with pytest.raises(DeviceError, match=r"facts: .*over 65536 bytes"):
        parse(Probe, {**made_up({"task": "probe"}, []), "facts": {"model": "x" * 70_000}})


def test_the_loader_that_a_login_shell_sees_holds_nothing_that_a_shell_acts_on() -> None:
    quoted = subprocess.run(
        ["sh", "-c", f"printf %s '{LOADER}'"], capture_output=True, text=True, check=True
    )
    assert quoted.stdout == LOADER and "'" not in LOADER
