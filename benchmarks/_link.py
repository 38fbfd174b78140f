"""A board over a slow link: this machine's own sshd behind a relay that holds every byte back."""

from __future__ import annotations

import getpass
import os
import queue
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SSHD = "/usr/sbin/sshd"


class Relay:
    """Passes connections on to a port; each way takes half of `round_trip_s` longer."""

    def __init__(self, target: int, round_trip_s: float) -> None:
        self._target, self._delay = target, round_trip_s / 2
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        self.sent = 0
        """Bytes towards the board."""
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            near, _ = self._server.accept()
            far = socket.create_connection(("127.0.0.1", self._target))
            for side in (near, far):
                side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._pass(near, far, counts=True)
            self._pass(far, near, counts=False)

    def _pass(self, source: socket.socket, sink: socket.socket, *, counts: bool) -> None:
        held: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()

        def read() -> None:
            while True:
                try:
                    part = source.recv(1 << 16)
                except OSError:
                    part = b""
                held.put((time.monotonic() + self._delay, part))
                self.sent += len(part) if counts else 0
                if not part:
                    return

        def write() -> None:
            while True:
                due, part = held.get()
                time.sleep(max(0.0, due - time.monotonic()))
                try:
                    if not part:
                        sink.shutdown(socket.SHUT_WR)
                        return
                    sink.sendall(part)
                except OSError:
                    return

        for work in (read, write):
            threading.Thread(target=work, daemon=True).start()


@contextmanager
def slow_board(folder: Path, round_trip_s: float) -> Iterator[Relay]:
    """A host `board` of the configuration that `KTBENCH_SSH_CONFIG` names for the while."""
    for name in ("host", "user"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(command, check=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    relay = Relay(port, round_trip_s)
    (folder / "sshd").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nPidFile none\n"
        f"AuthorizedKeysFile {folder}/user.pub\nStrictModes no\nUsePAM no\nLogLevel ERROR\n"
        f"SetEnv XDG_CACHE_HOME={folder}/board\n"
    )
    kind, key = (folder / "host.pub").read_text().split()[:2]
    (folder / "known").write_text(f"[127.0.0.1]:{relay.port} {kind} {key}\n")
    (folder / "client").write_text(
        f"Host board\n HostName 127.0.0.1\n Port {relay.port}\n User {getpass.getuser()}\n"
        f" IdentityFile {folder}/user\n IdentitiesOnly yes\n UserKnownHostsFile {folder}/known\n"
    )
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    server = subprocess.Popen([SSHD, "-D", "-e", "-f", str(folder / "sshd")])
    before = os.environ.get("KTBENCH_SSH_CONFIG")
    os.environ["KTBENCH_SSH_CONFIG"] = str(folder / "client")
    try:
        _wait_for(port)
        yield relay
    finally:
        server.terminate()
        server.wait()
        os.environ.pop("KTBENCH_SSH_CONFIG")
        if before is not None:
            os.environ["KTBENCH_SSH_CONFIG"] = before


def _wait_for(port: int) -> None:
    for _ in range(200):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise RuntimeError("sshd does not listen")
