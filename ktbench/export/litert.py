"""A client of the LiteRT process, which is started when first needed and replaced if it dies."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from ktbench.export.writer import ExportError

PROGRAM = Path(__file__).with_name("litert_worker.py")


class LiteRT:
    """One process with one job at a time; its terminal output goes to a log of its own."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._log: Any = None

    def start(self) -> None:
        """Start the process unless it runs; it loads its packages when given a job."""
        if self._process is not None:
            return
        ours, theirs = socket.socketpair()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        # -P: the program's own folder must not shadow packages of the same names
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(PROGRAM), str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "TQDM_DISABLE": "1"},
            start_new_session=True,  # Ctrl-C is for the parent, which hangs up when it ends
        )
        theirs.close()
        self._connection = Connection(ours.detach())

    def ask(self, job: str, *arguments: Any) -> Any:
        """Return a job's result; `ExportError` with one line if it fails or the process dies."""
        self.start()
        assert self._connection is not None
        try:
            self._connection.send((job, arguments))
            done, result = self._connection.recv()
        except (EOFError, ConnectionError) as error:
            raise ExportError(self._obituary()) from error
        if not done:
            raise ExportError(str(result))
        return result

    def _obituary(self) -> str:
        assert self._process is not None
        code = self._process.wait()
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines() or [""]
        self.close()
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with code {code}"
        last = f": {lines[-1].strip()}".rstrip(": ")
        return f"the LiteRT process was ended {how}{last}"

    def close(self) -> None:
        """End the process by a message, as a fork of this process may hold the line open."""
        if self._connection is not None:
            with contextlib.suppress(OSError):
                self._connection.send(None)
            self._connection.close()
        if self._process is not None:
            self._process.wait()
        if self._log is not None:
            self._log.close()
        self._process = self._connection = self._log = None

    def __getstate__(self) -> dict[str, Any]:
        """A copy in another process starts its own."""
        return {"_process": None, "_connection": None, "_log": None}

    def __del__(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(Exception):  # as the interpreter ends, anything may be gone
                self.close()
