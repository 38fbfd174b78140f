"""Builds the disk of an emulated 64-bit ARM board: Debian's packages unpacked, nothing executed.

It takes about a minute, root (for the files' owners) and Debian's tools, once: the image is kept
below `$XDG_CACHE_HOME`, under a name that follows from this file.
"""

from __future__ import annotations

import compileall
import gzip
import hashlib
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

SUITE = "bookworm"
TOOLS = ("mmdebstrap", "mke2fs", "ssh-keygen", "qemu-system-aarch64")
DISK = "2G"
BOARD_PYTHON = "python3.11"
_PACKAGES = (
    *("base-files", "base-passwd", "dash", "bash", "coreutils", "libc-bin", "busybox-static"),
    *("openssh-server", "python3", "libstdc++6", "linux-image-cloud-arm64"),
)
_MODULES = (  # in the order in which they need each other
    *("virtio/virtio_ring", "virtio/virtio", "virtio/virtio_mmio", "block/virtio_blk"),
    *("net/failover", "net/net_failover", "net/virtio_net"),
)
_FIRST_INIT = """#!/bin/busybox sh
b=/bin/busybox
$b mount -t devtmpfs none /dev
for module in MODULES; do $b insmod /modules/$module.ko; done
tries=0
until [ -b /dev/vda ] || [ $tries = 100 ]; do $b usleep 100000; tries=$((tries + 1)); done
$b mount -t ext4 /dev/vda /root && $b mount --move /dev /root/dev
exec $b switch_root /root /bin/busybox init
"""
_INITTAB = "::sysinit:/etc/start\n::respawn:/usr/sbin/sshd -D -e\n"
_START = """#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc none /proc
$b mount -t sysfs none /sys
$b mount -t tmpfs none /run
$b mount -t tmpfs none /tmp
$b chmod 1777 /tmp
$b mkdir -p /run/sshd /dev/pts /dev/shm
$b mount -t devpts none /dev/pts
$b hostname board
$b ip link set lo up
$b ip link set eth0 up
$b ip addr add 10.0.2.15/24 dev eth0
"""
_SSHD = """HostKey /etc/ssh/ssh_host_ed25519_key
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
UseDNS no
"""
_ACCOUNTS = {
    "passwd": "root:x:0:0::/root:/bin/bash\nsshd:x:100:65534::/run/sshd:/bin/false\n"
    "pi:x:1000:1000::/home/pi:/bin/bash\n",
    "group": "root:x:0:\ntty:x:5:\nnogroup:x:65534:\npi:x:1000:\n",
    "shadow": "root:*:19000::::::\nsshd:*:19000::::::\npi:*:19000::::::\n",
}


def missing() -> str | None:
    """What an emulated board cannot be had for want of, or None."""
    if (folder() / "complete").exists():
        return None if shutil.which(TOOLS[-1]) else f"{TOOLS[-1]} is not installed"
    lacking = [tool for tool in TOOLS if not shutil.which(tool)]
    if lacking:
        return f"not installed: {', '.join(lacking)}"
    return None if os.getuid() == 0 else "building the board's image needs root, once"


def folder() -> Path:
    """Where the image lies, made or not."""
    name = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "ktbench-tests" / f"arm-board-{name}"


def image() -> Path:
    """The folder with `disk`, `kernel`, `initrd`, `key` (the user's) and `host_key.pub`."""
    final = folder()
    if (final / "complete").exists():
        return final
    final.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix="arm-board-part-", dir=final.parent))
    try:
        _build(part)
        (part / "complete").touch()
        shutil.rmtree(final, ignore_errors=True)
        part.rename(final)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return final


def _build(part: Path) -> None:
    root = part / "root"
    _unpack_debian(root)
    (kernel,) = root.glob("boot/vmlinuz-*")
    shutil.copy(kernel, part / "kernel")
    _write_initrd(root, part / "initrd")
    for name in ("boot", "lib/modules", "usr/share/doc", "usr/share/man", "usr/share/locale"):
        shutil.rmtree(root / name, ignore_errors=True)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", part / "key"], check=True)
    _configure(root, part)
    _compile(root)
    _run("mke2fs", "-q", "-t", "ext4", "-m", "0", "-d", root, part / "disk", DISK)
    shutil.rmtree(root)


def _run(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{command[0]}: {done.stderr.strip()[-2000:]}")


def _unpack_debian(root: Path) -> None:
    """Packages and what they depend on, from the mirrors that this machine's apt knows."""
    listed = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(RELEASE) $(REPO_URI)"],
        capture_output=True,
        text=True,
    ).stdout
    mirrors = [line.split()[1] for line in listed.splitlines() if line.split()[0] == SUITE]
    mirror = mirrors[0] if mirrors else "http://deb.debian.org/debian"
    options = ("--quiet", "--mode=root", "--variant=extract", "--arch=arm64", "--skip=check/qemu")
    hooks = "/usr/share/mmdebstrap/hooks/merged-usr"  # as the packages expect /bin to be usr/bin
    slim = ('Apt::Install-Recommends "false"', 'Acquire::Languages "none"')
    _run(
        *("mmdebstrap", *options, f"--hook-dir={hooks}"),
        *(f"--aptopt={option}" for option in slim),
        f"--include={','.join(_PACKAGES)}",
        *(SUITE, root, f"deb {mirror} {SUITE} main"),
    )


def _write_initrd(root: Path, path: Path) -> None:
    """What finds the disk: a busybox, the drivers of QEMU's devices, and a script."""
    (drivers,) = root.glob("lib/modules/*/kernel")
    names = [Path(module).name for module in _MODULES]
    init = _FIRST_INIT.replace("MODULES", " ".join(names))
    entries: list[tuple[str, int, bytes]] = [
        (name, stat.S_IFDIR | 0o755, b"") for name in ("bin", "dev", "root", "modules")
    ]
    entries.append(("bin/busybox", stat.S_IFREG | 0o755, (root / "bin/busybox").read_bytes()))
    entries.append(("init", stat.S_IFREG | 0o755, init.encode()))
    for module, name in zip(_MODULES, names, strict=True):
        place = drivers / ("net/core" if name == "failover" else "drivers")
        source = place / f"{name if name == 'failover' else module}.ko"
        entries.append((f"modules/{name}.ko", stat.S_IFREG | 0o644, source.read_bytes()))
    packed = b"".join(
        _cpio(n, *entry) for n, entry in enumerate([*entries, ("TRAILER!!!", 0, b"")])
    )
    path.write_bytes(gzip.compress(packed, 1))


def _cpio(number: int, name: str, mode: int, data: bytes) -> bytes:
    """An entry of a cpio archive in the kernel's `newc` format (initramfs buffer format)."""
    fields = [number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0]
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
    return head + b"\0" * (-len(head) % 4) + data + b"\0" * (-len(data) % 4)


def _configure(root: Path, part: Path) -> None:
    """Accounts, keys, and what is started: no package's own script has run."""
    etc = root / "etc"
    for name, text in _ACCOUNTS.items():
        (etc / name).write_text(text)
    (etc / "inittab").write_text(_INITTAB)
    (etc / "start").write_text(_START)
    (etc / "start").chmod(0o755)
    (etc / "ssh").mkdir(exist_ok=True)
    (etc / "ssh/sshd_config").write_text(_SSHD)
    host_key = etc / "ssh/ssh_host_ed25519_key"
    _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", host_key)
    shutil.move(f"{host_key}.pub", part / "host_key.pub")
    for home, user in ((root / "home/pi", 1000), (root / "root", 0)):
        (home / ".ssh").mkdir(parents=True)
        shutil.copy(part / "key.pub", home / ".ssh/authorized_keys")
        (home / ".ssh").chmod(0o700)
        for path in (home, home / ".ssh", home / ".ssh/authorized_keys"):
            os.chown(path, user, user)


def _compile(root: Path) -> None:
    """Python's own modules as bytecode, which Debian's scripts would have made on the board.

    Each start takes a dozen seconds more without. Bytecode is of one version: only an interpreter
    of the board's can make it.
    """
    if f"python{sys.version_info.major}.{sys.version_info.minor}" == BOARD_PYTHON:
        library = root / "usr/lib" / BOARD_PYTHON
        compileall.compile_dir(library, quiet=2, stripdir=str(root), workers=2)
