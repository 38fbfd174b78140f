"""Setting a board up: what is chosen, what is installed how, who may use it, what is left."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ktbench.boards import Look, choose, fetch, look_at, set_up, take_down
from ktbench.boards import wheels as wheels_module
from ktbench.devices._contract import Blob, DeviceError
from ktbench.devices.agent import environment
from ktbench.measure import measure
from ktbench.records import DeviceSpec, KtbenchError
from tests.support.boards import SHORT, HomeBoard, SshBoard, base_python, job, oldest_python


@pytest.fixture
def wheel_cache(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Wheels are kept from one run of the tests to the next."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ktbench-tests"
    monkeypatch.setenv("KTBENCH_CACHE", str(cache))
    yield


def look(**changes: Any) -> Look:
    """What a Raspberry Pi with the newest system answers, with changes."""
    answer = {
        "interpreter": "/usr/bin/python3",
        "python": [3, 13, 5],
        "implementation": "cpython",
        "own_environment": False,
        "machine": "aarch64",
        "libc": ["glibc", "2.41"],
        "l4t": None,
        "free_bytes": 10**10,
        "pip": False,
        "numpy": None,
        "environment": None,
        "misfit": None,
        "holder": None,
        **changes,
    }
    return Look.model_validate(answer)


# ---------------------------------------------------------------- what is chosen


@pytest.mark.parametrize(
    ("system", "python", "glibc", "machine", "chosen"),
    [
        ("JetPack 4", [3, 6, 9], "2.27", "aarch64", {"onnxruntime==1.10.0", "numpy<2"}),
        (
            "JetPack 5",
            [3, 8, 10],
            "2.31",
            "aarch64",
            {"onnxruntime==1.19.2", "tflite-runtime==2.13.0", "numpy<2"},
        ),
        (
            "Pi OS Bullseye",
            [3, 9, 2],
            "2.31",
            "aarch64",
            {"onnxruntime==1.19.2", "ai-edge-litert==2.1.0", "numpy"},
        ),
        (
            "JetPack 6",
            [3, 10, 12],
            "2.35",
            "aarch64",
            {"onnxruntime==1.23.2", "ai-edge-litert==2.3.0", "numpy"},
        ),
        (
            "Pi OS Trixie",
            [3, 13, 5],
            "2.41",
            "aarch64",
            {"onnxruntime==1.31.1", "ai-edge-litert==2.3.0", "numpy"},
        ),
        (
            "the newest",
            [3, 14, 0],
            "2.42",
            "aarch64",
            {"onnxruntime==1.31.1", "ai-edge-litert==2.3.0", "numpy"},
        ),
    ],
)
def test_every_system_is_given_the_newest_runtimes_that_it_can_load(
    system: str, python: list[int], glibc: str, machine: str, chosen: set[str]
) -> None:
    choice = choose(look(python=python, libc=["glibc", glibc], machine=machine))
    assert set(choice.requirements) == chosen and not choice.problems


def test_a_board_that_numpy_has_no_wheel_for_uses_its_own_or_is_told_to_get_it() -> None:
    old = {"machine": "armv7l", "python": [3, 11, 2], "libc": ["glibc", "2.36"]}
    without = choose(look(**old))
    assert "sudo apt install python3-numpy" in without.problems[0]
    having = choose(look(**old, numpy="1.24.2"))
    assert having.requirements == ("tflite-runtime==2.14.0",) and not having.with_dependencies
    assert "below 2" in choose(look(**old, numpy="2.1.0")).problems[0]
    assert "no ONNX models" in having.notes[0]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"own_environment": True}, "virtual environment of yours"),
        ({"implementation": "pypy"}, "CPython 3.6 is the least"),
        ({"libc": ["", ""]}, "not glibc"),
        ({"libc": ["musl", "1.2"]}, "musl 1.2"),
        ({"machine": "riscv64"}, "no runtime has a wheel for riscv64"),
        ({"libc": ["glibc", "2.17"]}, "no runtime has a wheel"),
    ],
)
def test_a_board_that_cannot_be_set_up_is_told_why(changes: dict[str, Any], said: str) -> None:
    (problem,) = choose(look(**changes)).problems
    assert said in problem and "\n" not in problem


def test_pip_is_asked_for_wheels_of_the_boards_kind_alone() -> None:
    jetson = look(python=[3, 6, 9], libc=["glibc", "2.27"])
    arguments = wheels_module.command(choose(jetson), jetson, Path("w"))
    tags = {a for a in arguments if a.endswith("aarch64")}
    assert "manylinux_2_27_aarch64" in tags and "manylinux_2_28_aarch64" not in tags
    assert "--only-binary=:all:" in arguments and "3.6" in arguments


@pytest.mark.slow
def test_wheels_that_pip_cannot_get_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KTBENCH_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    with pytest.raises(KtbenchError, match="pip cannot get wheels for aarch64") as caught:
        fetch(choose(look()), look())
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "wheels").iterdir())


# ---------------------------------------------------------------- how it is installed


def wheel(members: dict[str, str]) -> Blob:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    return Blob.of(buffer.getvalue())


def installing(*blobs: Blob, size: int = 10_000) -> dict[str, Any]:
    pairs = [[f"w{n}.whl", blob.digest] for n, blob in enumerate(blobs)]
    return {"task": "install", "wheels": pairs, "bytes": size}


@pytest.mark.parametrize(
    "name",
    ["../evil.py", "a/../../evil.py", "/etc/evil.py", "a\\..\\evil.py", "C:evil.py", ".."],
)
def test_a_wheel_whose_files_would_escape_is_refused(bare: HomeBoard, name: str) -> None:
    bad = wheel({"good.py": "x = 1", name: "evil"})
    with pytest.raises(DeviceError, match="escape"):
        bare.run(installing(bad), [bad])
    left = bare.files()
    assert not any("evil" in path or "good" in path for path in left)
    assert not (bare.store / "environments" / "current").exists()


def test_a_wheel_that_holds_more_than_was_announced_is_refused(bare: HomeBoard) -> None:
    bomb = wheel({"bomb.py": "0" * 1_000_000})
    with pytest.raises(DeviceError, match="more than the host announced"):
        bare.run(installing(bomb, size=1000), [bomb])
    assert not any("bomb" in path for path in bare.files())


@pytest.mark.slow
def test_an_installation_replaces_the_one_before_and_what_a_killed_one_left(
    bare: HomeBoard,
) -> None:
    first, second = wheel({"one.py": ""}), wheel({"two.data/purelib/two.py": "", "two.data/x": ""})
    bare.run(installing(first), [first])
    (bare.store / "environments" / ".part-killed").mkdir()
    bare.run(installing(second), [second])
    (made,) = [p for p in (bare.store / "environments").iterdir() if p.is_dir()]
    assert {p.name for p in made.iterdir()} == {"two.py", environment.ABOUT}
    assert not (bare.store / first.digest).exists() and not (bare.store / second.digest).exists()


@pytest.mark.slow
def test_an_environment_of_another_python_is_not_used(bare: HomeBoard) -> None:
    made = wheel({"numpy/__init__.py": "__version__ = 'ours'"})
    bare.run(installing(made), [made])
    assert bare.run({"task": "probe"})["numpy"] == "ours"
    (about,) = (bare.store / "environments").glob(f"*/{environment.ABOUT}")
    about.write_text(json.dumps({**json.loads(about.read_text()), "python": [2, 7]}))
    assert bare.run({"task": "probe"})["numpy"] != "ours"
    assert "another Python" in look_at(bare).misfit  # type: ignore[operator]


@pytest.mark.slow
def test_an_interpreter_of_the_users_own_environment_is_left_alone(
    tmp_path: Path, bare: HomeBoard
) -> None:
    made = wheel({"numpy/__init__.py": "__version__ = 'ours'"})
    bare.run(installing(made), [made])
    own = HomeBoard(bare.home, Path(sys.executable))
    assert own.run({"task": "probe"})["numpy"] != "ours"


@pytest.mark.slow
def test_a_board_without_room_is_sent_nothing(
    bare: HomeBoard, monkeypatch: pytest.MonkeyPatch, wheel_cache: None
) -> None:
    small = look_at(bare).model_copy(update={"free_bytes": 10**6})
    monkeypatch.setattr("ktbench.boards.setup.look_at", lambda transport: small)
    with pytest.raises(KtbenchError, match=r"here: 1 MB are free there, .* MB are needed"):
        set_up(bare, "here", lambda line: None)
    assert not (bare.store / "environments").exists()


@pytest.mark.slow
@pytest.mark.parametrize("python", sorted({oldest_python(), base_python()}), ids=lambda p: p.name)
def test_a_board_is_set_up_from_nothing_and_left_as_it_was(
    python: Path, tmp_path: Path, wheel_cache: None
) -> None:
    board = HomeBoard(tmp_path, python)
    (tmp_path / "cache").mkdir()  # as most homes have one
    before = board.files()
    ready = set_up(board, "here", lambda line: None)
    assert any(runtime.startswith("onnxruntime") for runtime in ready.runtimes)
    assert ready.sent_bytes > 0
    assert set_up(board, "here", lambda line: None).sent_bytes == 0
    take_down(board, "here")
    assert board.files() == before


@pytest.mark.slow
def test_removal_leaves_nothing_of_any_set_up_and_follows_no_link(bare: HomeBoard) -> None:
    outside = bare.home / "mine"
    outside.mkdir()
    (outside / "photo.jpg").write_text("the user's")
    before = bare.files()
    bare.run({"task": "look"})
    for name in (
        "environments/.part-killed/half/numpy.so",
        f"environments/{'a' * 64}/numpy/__init__.py",
        "environments/current",
        f"engines/{'b' * 64}_1.19.2/engine.plan",
        "cache/Microsoft/DeveloperTools/deviceid",
        ".part-artifact",
        "before.json.part",
        "a file of a later version/with a folder",
        "c" * 64,
    ):
        path = bare.store / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("left")
        path.chmod(0o400)
    (bare.store / "environments" / "link").symlink_to(outside)
    (bare.store / "dangling").symlink_to(bare.home / "nowhere")
    take_down(bare, "here")
    assert bare.files() == before and (outside / "photo.jpg").exists()
    assert take_down(bare, "here").bytes > 0, "of the agent that was sent to do it"
    assert bare.files() == before


@pytest.mark.slow
def test_removal_leaves_other_files_of_the_folders_that_were_made(bare: HomeBoard) -> None:
    bare.run({"task": "look"})
    (bare.store.parent / "mine.txt").write_text("the user's")
    take_down(bare, "here")
    assert bare.files() == {"cache", "cache/ktbench", "cache/ktbench/mine.txt"}


# ---------------------------------------------------------------- one connection


@pytest.mark.slow
def test_tasks_share_a_connection_and_nothing_is_left_of_it(
    board: SshBoard, onnx_model: Path, tmp_path: Path
) -> None:
    device = DeviceSpec(profile="ssh", host="board", name="board", python=sys.executable, repeats=3)
    list(measure(device, [job(onnx_model)], tmp_path, budget=SHORT))
    ours = subprocess.run(
        ["ps", "-eo", "args"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert not [line for line in ours if "ControlPath" in line and str(board.config) in line]
