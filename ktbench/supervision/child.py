"""The parent's side of a child process: it is started, watched, and replaced when it dies."""

from __future__ import annotations

import os
import pickle
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, BinaryIO

from ktbench.records import KtbenchError
from ktbench.supervision.marks import Board, Mark
from ktbench.supervision.memory_limit import oom_kills

STEP_S = 1800.0
"""Seconds between two marks after which a child counts as hung, by default."""
START_S = 600.0
"""Least such time before the first mark, while packages are imported."""
_POLL_S = 0.5
_GRACE_S = 5.0
"""Seconds that a child gets to end after it was asked to."""
LOG_BYTES = 16 << 20
"""Size of a child's log: it is cut to its last bytes when it grows beyond twice this."""


class Died(KtbenchError):  # noqa: N818 - reads as what it says
    """A child process that ended, or had to be ended, before its work was done."""

    def __init__(self, reason: str, mark: Mark, *, killed: bool = False) -> None:
        super().__init__(reason)
        self.reason, self.mark = reason, mark
        self.killed = killed
        """True where somebody else killed it: the work itself may be in order."""


class Child:
    """One warm process for many pieces of work, one at a time.

    `logs` is the folder for the output of a process that died; the system's folder of temporary
    files when not given.
    """

    def __init__(self, logs: Path | None = None) -> None:
        self.logs = logs
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._board: Board | None = None
        self._log: BinaryIO | None = None
        self._oom_kills = 0
        self.busy = False
        """True while work is under way in it."""

    @classmethod
    def started(cls) -> Child:
        """Return a child that has begun to start: its imports take as long as this process's."""
        child = cls()
        child.start()
        return child

    @property
    def pid(self) -> int | None:
        """Id of the process that runs now."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start the process, and do not wait for it; nothing where it runs already."""
        if self._process is not None and self._process.poll() is None:
            return
        self.close()
        self._oom_kills = oom_kills()
        parent_end, child_end = socket.socketpair()
        descriptor = Board.new()
        self._log = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - lives as long as the child
        os.set_blocking(self._log.fileno(), True)
        try:
            # -P: a folder of the user's must not shadow the packages of the same name
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-P", "-m", "ktbench.supervision.worker"),
                    *(str(child_end.fileno()), str(descriptor), str(os.getpid())),
                ],
                pass_fds=[child_end.fileno(), descriptor],
                stdin=subprocess.DEVNULL,
                stdout=_appending(self._log),
                stderr=subprocess.STDOUT,
                env=_environment(),
                start_new_session=True,  # Ctrl-C is for the parent, which ends the child
            )
        finally:
            child_end.close()
        self._connection = Connection(parent_end.detach())
        self._board = Board(descriptor)
        os.close(descriptor)

    def run(
        self,
        function: Callable[..., Any],
        *arguments: Any,
        report: Callable[[float], None] | None = None,
        step_s: float = STEP_S,
    ) -> Any:
        """Run a module-level function in the child; return its value or raise what it raised.

        With `report` the function gets one more argument, to tell a share in [0, 1] with. Raises
        Died where the process ends, or makes no mark for `step_s` seconds.
        """
        self.start()
        assert self._connection is not None
        self.busy = True
        payload = pickle.dumps((function, arguments, report is not None))
        path = [entry or str(Path.cwd()) for entry in sys.path]
        try:
            self._connection.send((payload, dict(os.environ), str(Path.cwd()), path))
        except (BrokenPipeError, ConnectionError):
            raise self._died() from None
        answer = self._answer(report, step_s)
        self.busy = False
        return _opened(answer)

    def _answer(self, report: Callable[[float], None] | None, step_s: float) -> bytes:
        assert self._connection is not None and self._process is not None
        assert self._board is not None
        count, since = self._board.read()[0], time.monotonic()
        while True:
            try:
                message = self._connection.recv() if self._connection.poll(_POLL_S) else None
            except (EOFError, ConnectionError):
                raise self._died() from None
            if message is not None:
                kind, value = message
                if kind == "answer":
                    return bytes(value)
                if kind == "share" and report is not None:
                    report(value)
                elif kind == "allow":
                    step_s = value
                elif kind == "say":
                    print(f"ktbench: {value}", file=sys.stderr, flush=True)
            new_count, mark = self._board.read()
            limit = step_s if mark.text else max(step_s, START_S)
            if new_count != count:
                count, since = new_count, time.monotonic()
            elif time.monotonic() - since > limit:
                raise self._hung(limit)
            if message is None:
                self._tidy_log()
                if self._process.poll() is not None and not self._connection.poll():
                    raise self._died()

    def _hung(self, step_s: float) -> Died:
        assert self._process is not None and self._board is not None
        mark = self._board.read()[1]
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGABRT)  # prints where it is, to the log
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(2.0)
        self._kill()
        reason = f"it made no progress for {step_s:g} s{_while(mark)}"
        return self._over(f"{reason}; give it longer with limits.step_seconds", mark)

    def _died(self) -> Died:
        """Wait for the process to end, and return how it ended."""
        assert self._process is not None and self._board is not None
        mark = self._board.read()[1]
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_GRACE_S)
        if self._process.poll() is None:  # it hung up, and lives on
            self._kill()
        code = self._process.returncode
        if code >= 0:
            how = f"its process ended itself with exit code {code}"
            return self._over(f"{how}{_while(mark)}", mark)
        name = _signal_name(-code)
        out_of_memory = name == "SIGKILL" and oom_kills() > self._oom_kills
        meaning = " (the machine ran out of memory)" if out_of_memory else _MEANING.get(name, "")
        how = f"its process was ended by {name}{meaning}"
        killed = name == "SIGKILL" and not out_of_memory
        return self._over(f"{how}{_while(mark)}", mark, killed=killed)

    def _over(self, reason: str, mark: Mark, *, killed: bool = False) -> Died:
        log = self._kept_log(mark)
        self.close()
        where = f"; its output: {log}" if log else ""
        return Died(f"{reason}{where}", mark, killed=killed)

    def close(self) -> None:
        """End the process, and what it started for its work, and wait until it is gone."""
        if self._connection is not None:
            self._connection.close()
        if self._process is not None:
            if self.busy:  # an idle one ends as its parent has hung up
                with suppress(ProcessLookupError):
                    self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_GRACE_S)
            self._kill()
        for resource in (self._board, self._log):
            if resource is not None:
                resource.close()
        self._process = self._connection = self._board = self._log = None
        self.busy = False

    def _kill(self) -> None:
        """End the process group: what a child forked would hold files and memory."""
        assert self._process is not None
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _tidy_log(self) -> None:
        """Cut the log, which an endless print would fill the disk with."""
        if self._log is not None and os.fstat(self._log.fileno()).st_size > 2 * LOG_BYTES:
            end = self._end_of_log()
            os.ftruncate(self._log.fileno(), 0)
            os.pwrite(self._log.fileno(), end, 0)

    def _end_of_log(self) -> bytes:
        assert self._log is not None
        descriptor = self._log.fileno()
        size = os.fstat(descriptor).st_size
        return os.pread(descriptor, LOG_BYTES, max(0, size - LOG_BYTES))

    def _kept_log(self, mark: Mark) -> str:
        """Write the process's output where the user finds it; return the path, or nothing."""
        content = self._end_of_log() if self._log is not None else b""
        if not content.strip():
            return ""
        folder = self.logs or Path(tempfile.gettempdir(), "ktbench-logs")
        name = re.sub(r"[^A-Za-z0-9_-]+", "-", mark.subject or "work").strip("-")[:60]
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}-{self.pid}.log"
            path.write_bytes(content)
            return str(path)
        return ""


_MEANING = {
    "SIGSEGV": " (a crash in native code)",
    "SIGABRT": " (native code found its memory damaged, or gave up)",
    "SIGBUS": " (a crash in native code)",
    "SIGILL": " (an instruction that this processor lacks)",
    "SIGFPE": " (a division by zero in native code)",
    "SIGKILL": " (somebody killed it)",
}


def _opened(answer: bytes) -> Any:
    kind, value = pickle.loads(answer)
    if kind == "raised":
        raise value
    if kind == "failed":
        raise KtbenchError(value)
    return value


def _while(mark: Mark) -> str:
    return f" while {mark.text}" if mark.text else ""


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _appending(log: BinaryIO) -> int:
    """Return the log's descriptor, set to append: it can be cut while the child writes."""
    import fcntl

    flags = fcntl.fcntl(log.fileno(), fcntl.F_GETFL)
    fcntl.fcntl(log.fileno(), fcntl.F_SETFL, flags | os.O_APPEND)
    return log.fileno()


def _environment() -> dict[str, str]:
    """Return the parent's environment, in which the child finds the same packages."""
    places = [entry or str(Path.cwd()) for entry in sys.path]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(places), "PYTHONUNBUFFERED": "1"}
