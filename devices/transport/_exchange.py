"""A conversation with an agent through a process's pipes; see `devices/agent/protocol.py`."""

from __future__ import annotations

import base64
import io
import re
import subprocess
import threading
import zipfile
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import IO, Any

from ktbench.devices._contract import AnswerError, Blob, DeviceError
from ktbench.devices.agent import protocol

LOADER = 'exec(__import__("base64").b64decode(open(0,"rb",0,closefd=False).readline()))'
"""The constant program that a device's Python is started with; it reads one line and runs it."""
SLOWEST_LINK = 50_000
"""Bytes per second that the time limit of sending assumes."""
START_S = 60.0
_STDERR = 1 << 15
_SILENT = (
    ": nothing was heard of it; a start-up file of its shell may wait for input, which it should do"
    " only where somebody is at the terminal"
)
_TALKATIVE = (
    ": a start-up file of its shell may print too much, which it should do only where somebody is"
    " at the terminal"
)

Explain = Callable[[int, str], DeviceError | None]
"""Explains a missing answer from exit code and standard error, or returns None."""

Answer = dict[str, Any] | DeviceError

_AGENT = Path(protocol.__file__).parent
_STUB = "from agent.__main__ import main\nmain()\n"


@cache
def agent_archive() -> Blob:
    """The agent's folder as one runnable zip file, the same bytes on every machine."""
    files = {f"agent/{p.relative_to(_AGENT).as_posix()}": p for p in _AGENT.rglob("*.py")}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(zipfile.ZipInfo("__main__.py"), _STUB)
        for name in sorted(files):
            archive.writestr(zipfile.ZipInfo(name), files[name].read_bytes())
    return Blob.of(buffer.getvalue())


@cache
def bootstrap() -> bytes:
    """The line that the loader reads: the protocol's own text, and a call of its receiver."""
    text = Path(protocol.__file__).read_bytes() + b"\nreceive()\n"
    return base64.b64encode(text) + b"\n"


def plain(text: str, limit: int = 300) -> str:
    """A device's words as one printable line of bounded length."""
    printable = "".join(c if c.isprintable() else " " for c in text)
    line = re.sub(" +", " ", printable).strip()
    return line if len(line) <= limit else line[: limit - 1] + "…"


def last_line(text: str) -> str:
    """The last line that says something, as one printable line."""
    lines = [line for line in text.splitlines() if line.strip()]
    return plain(lines[-1]) if lines else ""


class Exchange:
    """Runs a command that becomes the agent, and talks to it."""

    def __init__(
        self, command: Sequence[str], *, root: str | None, python: str | None, explain: Explain
    ) -> None:
        self._command = list(command)
        self._root = root
        self._python = python
        self._explain = explain

    def run(self, task: dict[str, Any], blobs: Sequence[Blob], limit_s: float) -> dict[str, Any]:
        """See `Transport.run`."""
        with closing(self._talked({**task, "limit_s": limit_s}, blobs, [limit_s])) as answers:
            answer = next(answers)
        if isinstance(answer, DeviceError):
            raise answer
        return answer

    def series(
        self, task: dict[str, Any], blobs: Sequence[Blob], limits: Sequence[float]
    ) -> Generator[Answer, None, None]:
        """See `Transport.series`."""
        parts = [
            {**part, "limit_s": limit} for part, limit in zip(task["tasks"], limits, strict=True)
        ]
        whole = {**task, "tasks": parts, "limit_s": sum(limits) + START_S * len(parts)}
        yield from self._talked(whole, blobs, limits)

    def _talked(
        self, task: dict[str, Any], blobs: Sequence[Blob], limits: Sequence[float]
    ) -> Generator[Answer, None, None]:
        """Yield the answers of a process that becomes the agent; it ends with the generator."""
        blobs = [agent_archive(), *{b.digest: b for b in blobs}.values()]
        try:
            process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
            )
        except OSError as error:
            raise DeviceError(f"cannot start {self._command[0]}: {error.strerror}") from error
        with process:
            try:
                yield from self._watched(process, task, blobs, limits)
            finally:
                process.kill()

    def _watched(
        self,
        process: subprocess.Popen[bytes],
        task: dict[str, Any],
        blobs: Sequence[Blob],
        limits: Sequence[float],
    ) -> Iterator[Answer]:
        """Exchange messages, and turn whatever goes wrong into one DeviceError."""
        deadline = _Deadline(process)
        errors, started = _Tail(process.stderr), False
        try:
            deadline.set(START_S)
            missing = self._greeted(process, blobs)
            deadline.set(START_S + limits[0] + sum(len(b.data) for b in missing) / SLOWEST_LINK)
            started = True
            for blob in missing:
                _write(process.stdin, blob.data)
            _write(process.stdin, protocol.pack(task))
            if task["task"] != "series":
                yield _answer(_next(process))
                return
            for number, limit in enumerate(limits):
                yield self._part(process, number, limit)
                deadline.set(START_S + max(limits))
            _answer(_next(process))  # it ends by itself, with the board as it is to be
        except protocol.EndedError as error:
            code = process.wait()
            if deadline.expired:
                hint = "" if started else _SILENT
                raise DeviceError(
                    f"no answer within {deadline.seconds:.0f} s{hint}", lost=True
                ) from error
            words = errors.text()
            if not words.strip() and not started:  # of a shell that runs nothing: its own words
                words = error.said.decode("utf-8", "replace")
            raise self._ended(code, words, task["limit_s"]) from error
        except protocol.ProtocolError as error:
            raise _malformed(error, "" if started else _TALKATIVE) from error
        finally:
            deadline.cancel()

    def _part(self, process: subprocess.Popen[bytes], number: int, limit_s: float) -> Answer:
        """The answer to one task of a series, which comes behind its number."""
        if _ok(_next(process), "part") != number:
            raise protocol.ProtocolError("an answer came out of turn")
        assert process.stdout is not None
        body = protocol.read_body(process.stdout.read, protocol.MAX_NOISE)
        try:
            frame = protocol.parse(body)
            code, words = frame.get("ended"), frame.get("words")
            if isinstance(code, int) and isinstance(words, str):
                return _ended(code, words, limit_s)
            return _answer(frame)
        except protocol.ProtocolError as error:  # it is known where the next message begins
            return _malformed(error)
        except DeviceError as error:
            return error

    def _ended(self, code: int, errors: str, limit_s: float) -> DeviceError:
        explanation = self._explain(code, errors)
        if explanation is not None:
            return explanation
        return _ended(code, errors, limit_s)

    def _greeted(self, process: subprocess.Popen[bytes], blobs: Sequence[Blob]) -> list[Blob]:
        """Start the receiver on the device; return the files that it lacks."""
        request = {
            "version": protocol.VERSION,
            "root": self._root,
            "python": self._python,
            "agent": blobs[0].digest,
            "files": [[b.digest, len(b.data)] for b in blobs],
        }
        _write(process.stdin, bootstrap() + protocol.pack(request))
        missing = _missing(_ok(_next(process), "missing"), blobs)
        return [blob for blob in blobs if blob.digest in missing]


def _next(process: subprocess.Popen[bytes]) -> dict[str, Any]:
    """Read the next message; a login shell and the interpreter may print something before it."""
    assert process.stdout is not None
    return protocol.read_frame(process.stdout.read, protocol.MAX_NOISE)


def _answer(frame: dict[str, Any]) -> dict[str, Any]:
    answer = _ok(frame, "ok")
    if not isinstance(answer, dict):
        raise protocol.ProtocolError("the answer is no JSON object")
    return answer


def _malformed(error: protocol.ProtocolError, hint: str = "") -> AnswerError:
    return AnswerError(f"malformed answer: {plain(str(error))}{hint}")


def _ended(code: int, errors: str, limit_s: float) -> AnswerError:
    """Explain why an agent gave no answer, from how it ended and its last words."""
    if code in (-14, 142):  # SIGALRM, by which the agent ends itself
        return AnswerError(f"the agent was not done after {limit_s:.0f} s and was stopped")
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    if code in (-9, 137):
        how += ", as when memory runs out"
    words = last_line(errors)
    return AnswerError(f"the agent ended without an answer ({how})" + (words and f": {words}"))


def _ok(frame: dict[str, Any], key: str) -> Any:
    """Return the value of `key` in a frame; DeviceError for the error that it may hold instead."""
    if isinstance(frame.get("error"), str):
        raise DeviceError(plain(frame["error"], 500))
    if key not in frame:
        raise protocol.ProtocolError(f"a message has no {key!r}")
    return frame[key]


def _missing(answer: Any, blobs: Sequence[Blob]) -> set[str]:
    """The digests that a device asks for, which must be some of those offered."""
    offered = {b.digest for b in blobs}
    if not isinstance(answer, list) or not all(isinstance(d, str) for d in answer):
        raise protocol.ProtocolError("the list of missing files is none")
    if not offered.issuperset(answer):
        raise protocol.ProtocolError("the device asks for a file that was not offered")
    return set(answer)


def _write(stream: IO[bytes] | None, data: bytes) -> None:
    """Write all; a broken pipe is left for the reader, who finds out why."""
    assert stream is not None
    view = memoryview(data)
    try:
        while view:
            view = view[stream.write(view) :]
    except BrokenPipeError:
        pass


class _Deadline:
    """Kills a process that has been silent for too long."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._timer: threading.Timer | None = None
        self.expired = False
        self.seconds = 0.0

    def set(self, seconds: float) -> None:
        """Set the deadline to so many seconds from now."""
        self.cancel()
        self.seconds = seconds
        self._timer = threading.Timer(seconds, self._expire)
        self._timer.start()

    def cancel(self) -> None:
        """Remove the deadline."""
        if self._timer is not None:
            self._timer.cancel()

    def _expire(self) -> None:
        self.expired = True
        self._process.kill()


class _Tail:
    """Reads a stream to its end in the background and keeps the last of it."""

    def __init__(self, stream: IO[bytes] | None) -> None:
        assert stream is not None
        self._stream = stream
        self._kept = b""
        self._thread = threading.Thread(target=self._drain, daemon=True)
        self._thread.start()

    def _drain(self) -> None:
        try:
            while part := self._stream.read(1 << 12):
                self._kept = (self._kept + part)[-_STDERR:]
        except (OSError, ValueError):
            return  # closed, as another process (a shared connection's) keeps it open

    def text(self) -> str:
        """Return the end of the stream's text; waits a little for its end."""
        self._thread.join(timeout=5)
        return self._kept.decode("utf-8", "replace")
