"""Models to measure, and a real board over SSH; the fixtures are in `board_fixtures`."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ktbench.devices._contract import DeviceError
from ktbench.devices.transport import _exchange
from ktbench.devices.transport._exchange import LOADER, Exchange
from ktbench.measure import Budget, Job
from ktbench.records import DeviceSpec, ExportSpec, digest_of
from tests.support.optional_tools import SSHD

SHORT = Budget(runs=36, seconds=0.0, warm_runs=2, warm_s=0.0, cool_wait_s=0.0, limit_s=60.0)


# ---------------------------------------------------------------- models


def logits(images: np.ndarray) -> np.ndarray:
    """Return the logits that the model of `write_onnx` gives for images (N, 1, 4, 4)."""
    return (images.reshape(len(images), 16).astype(np.float32) @ _weights()).astype(np.float32)


def _weights() -> np.ndarray:
    return np.random.RandomState(0).standard_normal((16, 10)).astype(np.float32)


def images(count: int) -> np.ndarray:
    """Return raw images (N, 1, 4, 4), uint8."""
    return np.random.RandomState(1).randint(0, 256, (count, 1, 4, 4)).astype(np.uint8)


def write_onnx(path: Path, batch: int | str = 1) -> Path:
    """Write a linear classifier of 4×4 images as an ONNX model."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["x"], ["flat"]),
            helper.make_node("MatMul", ["flat", "w"], ["y"]),
        ],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 1, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 10])],
        [numpy_helper.from_array(_weights(), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    return path


def write_tflite(path: Path, operator: str = "RELU") -> Path:
    """Write a TFLite model of one operator on four numbers; XNNPACK runs RELU, not LOG_SOFTMAX."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model, graph, step = schema.ModelT(), schema.SubGraphT(), schema.OperatorT()
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, operator)
    code.version = 1
    graph.tensors = [schema.TensorT(), schema.TensorT()]
    for tensor, name in zip(graph.tensors, ("x", "y"), strict=True):
        tensor.name, tensor.shape, tensor.type = name, [1, 4], schema.TensorType.FLOAT32
    step.inputs, step.outputs = [0], [1]
    graph.inputs, graph.outputs, graph.operators = [0], [1], [step]
    model.version, model.operatorCodes, model.subgraphs = 3, [code], [graph]
    model.buffers = [schema.BufferT()]  # the first one is empty: tensors without data name it
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(builder.Output())
    return path


def job(path: Path, **changes: object) -> Job:
    """Return a measurement job of a model file, whose keys follow from the file's name."""
    export = ExportSpec(format="tflite" if path.suffix == ".tflite" else "onnx")
    key = path.stem if path.stem.isprintable() else digest_of(path.stem)
    values = {"graph_key": key, "cell_key": key, "digest": key, **changes}
    return Job(path=path, export=export, **values)  # type: ignore[arg-type]


def agent_of(stub: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every agent that starts from now on run these lines before it reads its task.

    They take the place that a patch has in tests of one process.
    """
    monkeypatch.setattr(_exchange, "_STUB", stub + _exchange._STUB)
    changed = _exchange.agent_archive.__wrapped__()
    monkeypatch.setattr(_exchange, "agent_archive", lambda: changed)


# ---------------------------------------------------------------- a board without SSH


class HomeBoard:
    """This machine as a board, with a separate home folder and any of its interpreters."""

    def __init__(self, home: Path, python: Path) -> None:
        self.home, self.store = home, home / "cache" / "ktbench" / "store"
        self._exchange = Exchange(
            [str(python), "-I", "-c", LOADER],
            root=str(self.store),
            python=None,
            explain=lambda code, errors: None,
        )

    def run(self, task: dict[str, Any], blobs: Any = (), limit_s: float = 60) -> dict[str, Any]:
        return self._exchange.run(task, list(blobs), limit_s)

    def series(
        self, task: dict[str, Any], blobs: Any, limits: Any
    ) -> Generator[dict[str, Any] | DeviceError, None, None]:
        return self._exchange.series(task, list(blobs), limits)

    def close(self) -> None:
        pass

    def files(self) -> set[str]:
        return {str(path.relative_to(self.home)) for path in self.home.rglob("*")}


def base_python() -> Path:
    """Return the path of this Python without its virtual environment."""
    return Path(sys.base_prefix, "bin", f"python3.{sys.version_info.minor}")


def oldest_python() -> Path:
    """Return the oldest interpreter of this machine, 3.6 or newer, from the system or pyenv."""
    for minor in range(6, sys.version_info.minor):
        roots = sorted(Path.home().glob(f".pyenv/versions/3.{minor}.*/bin/python3.{minor}"))
        found = shutil.which(f"python3.{minor}") if not roots else str(roots[-1])
        if found and subprocess.run([found, "-I", "-c", ""], capture_output=True).returncode == 0:
            return Path(found)
    return base_python()


# ---------------------------------------------------------------- a board over SSH


@dataclass(frozen=True)
class SshBoard:
    """A real sshd on loopback, reached by the aliases of a client's configuration."""

    config: Path
    store: Path
    """Folder on the board that the agent's files go to."""
    server: int
    """Process of the server."""

    def spec(self, host: str = "board", **changes: object) -> DeviceSpec:
        """Return a device of a matrix on this board."""
        values = {"name": host, "python": sys.executable, "repeats": 1, **changes}
        return DeviceSpec(profile="ssh", host=host, **values)  # type: ignore[arg-type]


def login(board: SshBoard, name: str, script: str) -> str:
    """Add an alias under which the board's login shell runs these lines first.

    `exec sh -c "$SSH_ORIGINAL_COMMAND"` goes on as an ordinary shell does.
    """
    folder = board.config.parent
    shell, key = folder / f"{name}.sh", folder / f"key-{name}"
    if not key.exists():
        public = _keys(folder, key.name).with_suffix(".pub").read_text()
        with (folder / "user.pub").open("a") as file:
            file.write(f'command="{shell}" {public}')
        port = next(
            line.split()[1] for line in board.config.read_text().splitlines() if "Port" in line
        )
        with board.config.open("a") as file:
            file.write(_alias(folder, name, key=key.name, number=int(port)))
    shell.write_text(f"#!/bin/sh\n{script}\n")
    shell.chmod(0o755)
    return name


def _keys(folder: Path, name: str) -> Path:
    path = folder / name
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    return path


def _known(port: int, key: Path) -> str:
    kind, value = key.with_suffix(".pub").read_text().split()[:2]
    return f"[127.0.0.1]:{port} {kind} {value}\n"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _server_config(folder: Path, port: int, host_key: Path, cache: Path) -> str:
    return f"""
Port {port}
ListenAddress 127.0.0.1
HostKey {host_key}
AuthorizedKeysFile {folder / "user.pub"}
PidFile none
UsePAM no
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
LogLevel ERROR
SetEnv XDG_CACHE_HOME={cache}
"""


def _alias(folder: Path, name: str, *, known: str = "known", key: str = "user", number: int) -> str:
    return f"""
Host {name}
  HostName 127.0.0.1
  Port {number}
  User {getpass.getuser()}
  IdentityFile {folder / key}
  IdentitiesOnly yes
  UserKnownHostsFile {folder / known}
  GlobalKnownHostsFile none
"""


def _client_config(folder: Path, port: int) -> str:
    return "".join(
        [
            _alias(folder, "board", number=port),
            _alias(folder, "impostor", known="known-other", number=port),
            _alias(folder, "stranger", known="known-none", number=port),
            _alias(folder, "locked", key="other", number=port),
            _alias(folder, "nowhere", number=_free_port()),
        ]
    )


def _wait_for(port: int, server: subprocess.Popen[bytes]) -> None:
    for _ in range(200):
        assert server.poll() is None, "sshd ended"
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError("sshd does not listen")


@contextmanager
def running_sshd(folder: Path) -> Iterator[SshBoard]:
    """Run a server with its own keys and configuration in this folder, and a client's for it."""
    host, other = _keys(folder, "host"), _keys(folder, "other")
    _keys(folder, "user")
    port = _free_port()
    (folder / "known").write_text(_known(port, host))
    (folder / "known-other").write_text(_known(port, other))
    (folder / "known-none").write_text("")
    cache = folder / "board-cache"
    (folder / "sshd_config").write_text(_server_config(folder, port, host, cache))
    (folder / "ssh_config").write_text(_client_config(folder, port))
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    server = subprocess.Popen([SSHD, "-D", "-e", "-f", folder / "sshd_config"])
    try:
        _wait_for(port, server)
        yield SshBoard(folder / "ssh_config", cache / "ktbench" / "store", server.pid)
    finally:
        server.terminate()
        server.wait()
