"""Fixtures for tests that need a real model, a real board over SSH, or an old runtime."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.optional_tools import SSHD, skip_or_fail

if TYPE_CHECKING:
    from tests.support.boards import HomeBoard, SshBoard


@pytest.fixture(scope="session")
def onnx_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.support.boards import write_onnx

    return write_onnx(tmp_path_factory.mktemp("models") / "linear.onnx")


@pytest.fixture(scope="session")
def tflite_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of the same kind as a TFLite model, (1, 4, 4, 1) floats to (1, 10)."""
    import torch

    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 10)).eval()
    path = tmp_path_factory.mktemp("models") / "linear.tflite"
    with warnings.catch_warnings():  # the converter's own
        warnings.simplefilter("ignore")
        import litert_torch

        litert_torch.convert(network, (torch.zeros(1, 4, 4, 1),)).export(str(path))
    return path


@pytest.fixture(scope="session")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshBoard]:
    if not SSHD.exists() or not shutil.which("ssh") or not shutil.which("ssh-keygen"):
        skip_or_fail("this test needs OpenSSH's server and client")
    from tests.support.boards import running_sshd

    with running_sshd(tmp_path_factory.mktemp("sshd")) as board:
        yield board


@pytest.fixture
def board(sshd: SshBoard, monkeypatch: pytest.MonkeyPatch) -> SshBoard:
    monkeypatch.setenv("KTBENCH_SSH_CONFIG", str(sshd.config))
    return sshd


@pytest.fixture(scope="session")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter with neither numpy nor a runtime."""
    folder = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    return folder / "bin" / "python"


@pytest.fixture(scope="session")
def old_tflite_python() -> Path:
    """An interpreter with tflite-runtime 2.14 and the numpy that it needs, kept between runs."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "ktbench-tests" / f"tflite-runtime-2.14.0-py{sys.version_info.minor}"
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        wanted = ["tflite-runtime==2.14.0", "numpy<2"]
        done = subprocess.run(
            [python, "-m", "pip", "install", "--quiet", "--only-binary=:all:", *wanted],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            skip_or_fail(f"pip cannot get tflite-runtime 2.14: {done.stderr.strip()[-300:]}")
        (folder / "complete").touch()
    return python


@pytest.fixture(scope="session")
def jetpack_4_python() -> Path:
    """Python 3.6 with onnxruntime 1.10, as JetPack 4.6 has them; skips where there is no 3.6."""
    found = sorted(Path.home().glob(".pyenv/versions/3.6.*/bin/python3.6"))
    found += [path for path in (Path("/usr/bin/python3.6"),) if path.exists()]
    if not found:
        pytest.skip("there is no Python 3.6 here")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "ktbench-tests" / "onnxruntime-1.10.0-py36"
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        subprocess.run([found[0], "-m", "venv", "--clear", folder], check=True)
        for wanted in (["--upgrade", "pip<22"], ["onnxruntime==1.10.0"]):
            command = [python, "-m", "pip", "install", "--quiet", "--only-binary=:all:", *wanted]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                pytest.skip(f"pip cannot get {wanted[-1]}: {done.stderr.strip()[-300:]}")
        (folder / "complete").touch()
    return python


@pytest.fixture
def bare(tmp_path: Path) -> HomeBoard:
    from tests.support.boards import HomeBoard, base_python

    (tmp_path / "home").mkdir()
    return HomeBoard(tmp_path / "home", base_python())
