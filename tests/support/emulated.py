"""An emulated ARM board that can be unplugged, frozen and cut off from power."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.emulated_image import image

WANTED = "KTBENCH_EMULATED_BOARD"
BOOT_S = 240.0
_AT_ONCE = ("-smp", "2", "-accel", "tcg,thread=multi")
_COUNTING = ("-smp", "1", "-accel", "tcg,thread=single", "-icount", "shift=1")
_MEASURING = """b=/bin/busybox
until [ -e /home/pi/.cache/ktbench/store/{digest} ]; do $b usleep 100000; done
until $b grep -qs onnxruntime /proc/[0-9]*/maps; do $b usleep 100000; done
"""


def wanted() -> bool:
    """Tell whether the board was asked for, by its own variable or as a part of CI."""
    in_ci = "1" if os.environ.get("KTBENCH_CI") == "1" else "0"
    return os.environ.get(WANTED, in_ci) == "1"


@dataclass
class EmulatedBoard:
    """A machine of two Cortex-A72 and 512 MiB with the name `board` in `config`."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def config(self) -> Path:
        """The SSH client's configuration file."""
        return self.folder / "ssh_config"

    def start(self, *, counting: bool = False) -> None:
        """Boot, and wait until it answers.

        `counting` ties the board's clock to the instructions that it has executed.
        """
        boot, monitor = image(), self.folder / "monitor"
        monitor.unlink(missing_ok=True)
        self.process = subprocess.Popen(
            [
                *("setpriv", "--pdeathsig", "KILL"),  # a killed test leaves no board behind
                *("qemu-system-aarch64", "-M", "virt", "-cpu", "cortex-a72"),
                *("-m", "512M", *(_COUNTING if counting else _AT_ONCE)),
                *("-nodefaults", "-no-user-config", "-display", "none"),
                *("-serial", f"file:{self.folder / 'console'}"),
                *("-monitor", f"unix:{monitor},server,nowait"),
                *("-kernel", boot / "kernel", "-initrd", boot / "initrd"),
                # Without a random place for the kernel its page tables stay when programs call it.
                *("-append", "console=ttyAMA0 quiet nokaslr mitigations=off"),
                *("-drive", f"if=none,id=disk,format=raw,file={self.folder / 'disk'}"),
                *("-device", "virtio-blk-device,drive=disk"),
                *("-netdev", f"user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{self.port}-:22"),
                *("-device", "virtio-net-device,netdev=net,id=nic"),
            ]
        )
        end = time.monotonic() + BOOT_S
        while self.ssh("true").returncode:
            assert self.process.poll() is None, "the emulator ended"
            assert time.monotonic() < end, (self.folder / "console").read_text()[-2000:]
            time.sleep(0.5)

    def ssh(
        self, command: str, user: str = "pi", given: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on the board without ktbench; `given` is its standard input."""
        return subprocess.run(
            ["ssh", "-F", self.config, "-o", "ConnectTimeout=20", "-l", user, "board", command],
            capture_output=True,
            text=True,
            input=given,
        )

    def once_measuring(self, digest: str, command: str = "true") -> subprocess.Popen[bytes]:
        """Run a command on the board, as root, as soon as this artifact's runtime is loaded."""
        waiting = _MEASURING.format(digest=digest) + command
        return subprocess.Popen(
            ["ssh", "-F", self.config, "-l", "root", "board", waiting], stdin=subprocess.DEVNULL
        )

    def unplug(self) -> None:
        """Pull the network cable."""
        self._say("set_link nic off")

    def plug(self) -> None:
        """Put the network cable back."""
        self._say("set_link nic on")

    def freeze(self) -> None:
        """Stop the machine's time."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let the machine's time go on."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def cut_power(self) -> None:
        """Switch the board off from one instruction to the next."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def _say(self, command: str) -> None:
        """Send a command to QEMU's monitor."""
        with socket.socket(socket.AF_UNIX) as talk:
            talk.connect(str(self.folder / "monitor"))
            talk.settimeout(10)
            while not talk.recv(4096).endswith(b"(qemu) "):
                pass
            talk.sendall(command.encode() + b"\n")
            talk.recv(4096)
            time.sleep(0.2)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running_board(folder: Path) -> Iterator[EmulatedBoard]:
    """Boot a board whose disk lies in this folder."""
    made, board = image(), EmulatedBoard(folder, _free_port())
    subprocess.run(["cp", "--sparse=always", made / "disk", folder / "disk"], check=True)
    key = Path(shutil.copy(made / "key", folder / "key"))
    key.chmod(0o600)
    kind, value = (made / "host_key.pub").read_text().split()[:2]
    (folder / "known").write_text(f"[127.0.0.1]:{board.port} {kind} {value}\n")
    board.config.write_text(
        f"Host board\n HostName 127.0.0.1\n Port {board.port}\n User pi\n IdentityFile {key}\n"
        f" IdentitiesOnly yes\n UserKnownHostsFile {folder / 'known'}\n"
        " GlobalKnownHostsFile none\n BatchMode yes\n LogLevel ERROR\n"
    )
    try:
        board.start()
        yield board
    finally:
        board.cut_power()
