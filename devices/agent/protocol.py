"""The protocol of host and board: frames, limits, and the transfer of files.

The file stands alone, in the standard library and the syntax of Python 3.6: its own text followed
by a call of `receive` is the first thing that the host sends, so both ends frame messages alike.

A talk: the host sends `request` (which files are wanted, by SHA-256); the board answers which are
missing; the host sends those, then the task; the board replaces itself by the agent, whose answer
ends the talk; those to the tasks of a series come before it, each behind its number. Frames are a
mark, a length and JSON. Nothing else is ever read back.
"""

import errno
import hashlib
import json
import os
import re
import struct
import sys
import tempfile
from typing import Any, Callable, Dict, List, Optional

VERSION = 1
MARK = b"\x00ktbench\x01"
MAX_FRAME = 64 << 20
"""Bytes of a frame's JSON; a longer one is refused by whoever reads it."""
MAX_NOISE = 1 << 16
"""Bytes that a login shell may print before the first frame."""
MAX_STORE = 2 << 30
"""Bytes of files that a board keeps; the longest unused go first."""
CHUNK = 1 << 16
MADE = ".made"
"""File of the store that counts the folders that were made for it."""

_LENGTH = struct.Struct(">I")
_DIGEST = re.compile("[0-9a-f]{64}")

Read = Callable[[int], bytes]
"""Returns up to so many bytes, none at the end of the stream."""


class ProtocolError(Exception):
    """A message that breaks the protocol."""


class EndedError(ProtocolError):
    """The stream ended before the message did; `said` is what came of it."""

    said = b""


class TaskError(Exception):
    """The reason why a task cannot be done, in words for the user."""


def is_digest(text: Any) -> bool:
    """Tell if this is a SHA-256 in hexadecimal, the only kind of file name on a board."""
    return isinstance(text, str) and _DIGEST.fullmatch(text) is not None


def pack(value: Any) -> bytes:
    """A frame; ValueError for NaN and infinities, which JSON has not."""
    return frame(json.dumps(value, allow_nan=False, separators=(",", ":")).encode())


def frame(body: bytes) -> bytes:
    """A frame around JSON that is there already."""
    if len(body) > MAX_FRAME:
        raise ProtocolError("a message of %d bytes is over the limit" % len(body))
    return MARK + _LENGTH.pack(len(body)) + body


def read_exactly(read: Read, count: int) -> bytes:
    """Read exactly so many bytes; raises EndedError if there are fewer."""
    parts: List[bytes] = []
    while count > 0:
        part = read(min(count, CHUNK))
        if not part:
            ended = EndedError("the stream ended early")
            ended.said = b"".join(parts)
            raise ended
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def read_frame(read: Read, noise: int = 0) -> Dict[str, Any]:
    """The next frame's JSON object, after at most `noise` bytes of something else."""
    return parse(read_body(read, noise))


def parse(body: bytes) -> Dict[str, Any]:
    """The JSON object of a frame."""
    try:
        value = json.loads(body.decode(), parse_constant=_refuse_constant, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise ProtocolError("a message is not JSON: %s" % error)
    if not isinstance(value, dict):
        raise ProtocolError("a message is not a JSON object")
    return value


def read_body(read: Read, noise: int = 0) -> bytes:
    """The next frame's JSON as it came, after at most `noise` bytes of something else."""
    seen = read_exactly(read, len(MARK))
    while seen[-len(MARK) :] != MARK:
        if len(seen) - len(MARK) >= noise:
            raise ProtocolError("no message where one should begin")
        try:
            seen += read_exactly(read, 1)
        except EndedError as ended:
            ended.said = seen
            raise
    (length,) = _LENGTH.unpack(read_exactly(read, _LENGTH.size))
    if length > MAX_FRAME:
        raise ProtocolError("a message of %d bytes is over the limit" % length)
    return read_exactly(read, length)


def _refuse_constant(name: str) -> None:
    raise ValueError("%s is no number" % name)


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError("%s is too large for a number" % text[:40])
    return value


# ---------------------------------------------------------------- the board's side


def read_stdin(count: int) -> bytes:
    """Unbuffered, so that what follows is left for the program that takes this one's place."""
    return os.read(0, count)


def send(value: Any, handle: int = 1) -> None:
    """Write one frame to a file descriptor."""
    write(pack(value), handle)


def write(data: bytes, handle: int = 1) -> None:
    """Write all bytes to a file descriptor."""
    while data:
        data = data[os.write(handle, data) :]


def receive() -> None:
    """Take what is missing into the store, then become the agent."""
    try:
        request = read_frame(read_stdin)
        _check(request)
        root = store_folder(request["root"])
        missing = [d for d, _ in request["files"] if not holds(root, d)]
        send({"missing": missing})
        for digest, size in request["files"]:
            if digest in missing:
                store(root, digest, size)
        prune(root, [digest for digest, _ in request["files"]])
        become(request["python"], os.path.join(root, request["agent"]))
    except TaskError as error:
        send({"error": str(error)})
        sys.exit(1)
    except OSError as error:
        send({"error": unwritable(error)})
        sys.exit(1)
    except (ProtocolError, KeyError, TypeError, ValueError) as error:
        send({"error": "%s: %s" % (type(error).__name__, error)})
        sys.exit(1)


def unwritable(error: OSError) -> str:
    """Explain why the store cannot take files, and what helps."""
    where = "%s: " % error.filename if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return where + "no space is left on the board: free some, or mount a larger disk there"
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.ENOENT):
        return "%s%s: the agent's files go below ~/.cache there: make that writable, or set %s" % (
            where,
            error.strerror,
            "XDG_CACHE_HOME for this login to a folder that is",
        )
    return "%s%s" % (where, error.strerror or error)


def _check(request: Dict[str, Any]) -> None:
    if request["version"] != VERSION:
        raise ProtocolError("the host speaks version %r" % request["version"])
    for digest, size in request["files"]:
        if not is_digest(digest) or not isinstance(size, int) or size < 0:
            raise ProtocolError("a file's name is no digest")
    if not is_digest(request["agent"]):
        raise ProtocolError("the agent's name is no digest")


def store_folder(root: Optional[str]) -> str:
    """The folder of the store, made if need be: the one asked for, or the user's cache."""
    if root is None:
        cache = os.environ.get("XDG_CACHE_HOME")
        if not cache:
            home = os.path.expanduser("~")
            if not os.path.isdir(home):
                raise TaskError(
                    "the home folder %s of this login does not exist: make it, or set"
                    " XDG_CACHE_HOME for the login to a folder that can be written" % home
                )
            cache = os.path.join(home, ".cache")
        root = os.path.join(cache, "ktbench", "store")
    root = os.path.abspath(root)
    created, path = 0, root
    while not os.path.isdir(path):
        created, path = created + 1, os.path.dirname(path)
    os.makedirs(root, mode=0o700, exist_ok=True)
    if created:
        with open(os.path.join(root, MADE), "w") as file:
            file.write(str(created))
    return root


def made_folders(root: str) -> int:
    """Return how many folders were created for the store, missing parents included."""
    try:
        with open(os.path.join(root, MADE)) as file:
            return int(file.read(10))
    except (OSError, ValueError):
        return 1


def holds(root: str, digest: str) -> bool:
    """Tell if the store has this file whole, by reading its content."""
    path = os.path.join(root, digest)
    state = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            for part in iter(lambda: file.read(CHUNK), b""):
                state.update(part)
        os.utime(path, None)
    except OSError:
        return False
    return state.hexdigest() == digest


def store(root: str, digest: str, size: int) -> None:
    """Read a file's bytes and keep them under their digest, or nothing at all."""
    state = hashlib.sha256()
    handle, temporary = tempfile.mkstemp(prefix=".part-", dir=root)
    try:
        with os.fdopen(handle, "wb") as file:
            left = size
            while left:
                part = read_exactly(read_stdin, min(left, CHUNK))
                state.update(part)
                file.write(part)
                left -= len(part)
            file.flush()
            os.fsync(file.fileno())
        if state.hexdigest() != digest:
            raise ProtocolError("a file arrived damaged")
        os.replace(temporary, os.path.join(root, digest))
    except BaseException:
        os.unlink(temporary)
        raise


def prune(root: str, keep: List[str], limit: int = MAX_STORE) -> None:
    """Remove the longest unused files until the store is within its limit."""
    files = []
    for name in os.listdir(root):
        if is_digest(name):
            facts = os.stat(os.path.join(root, name))
            files.append((facts.st_mtime, facts.st_size, name))
    total = sum(size for _, size, _ in files)
    for _, size, name in sorted(files):
        if total > limit and name not in keep:
            os.unlink(os.path.join(root, name))
            total -= size


def become(python: Any, agent: str) -> None:
    """Replace this process by the wanted interpreter, running the agent; its stdin goes on."""
    if python is None:
        program = sys.executable
    elif isinstance(python, str) and python:
        program = os.path.expanduser(python)
    else:
        raise ProtocolError("the interpreter is no name")
    try:
        os.execvp(program, [program, agent])
    except OSError as error:
        raise ProtocolError("cannot start the interpreter %s: %s" % (program, error.strerror))
