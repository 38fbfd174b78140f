"""Several tasks, one after the other, each in a process of its own under this one's eyes.

One talk with the host then serves for many repeats: over a slow link the way there and back would
cost more than a repeat. A process that ends without an answer costs its own task alone.
"""

import json
import os
import subprocess
import sys
import threading
from typing import IO, Any, Callable, Dict, Optional

from . import protocol

GRACE_S = 10.0
"""Beyond its limit, by which an agent ends itself, until it is killed."""
_WORDS = 1 << 12
_DONE = b'{"ok":'
"""The beginning of every answer that is no error."""
_FILES = ("artifact", "inputs")

Say = Callable[[bytes], None]
"""Sends a message's body to the host."""


def series(task: Dict[str, Any], store: str, say: Say) -> Dict[str, Any]:
    """Do all tasks and send each answer, after its number, as soon as it is there.

    A task that failed once is not tried again: its further repeats get the same answer.
    """
    failed: Dict[Any, bytes] = {}
    for number, one in enumerate(task["tasks"]):
        kind = (one["artifact"], one["threads"])
        say(json.dumps({"part": number}).encode())
        body = failed.get(kind) or outcome(one, store)
        if not body.startswith(_DONE):
            failed[kind] = body
        say(body)
    return {"parts": len(task["tasks"])}


def outcome(task: Dict[str, Any], store: str) -> bytes:
    """The body of an agent's answer to one task, or of the error that stands for it."""
    changed = damaged(task, store)
    if changed:
        return json.dumps({"error": changed}).encode()
    agent = subprocess.Popen(
        [sys.executable, sys.argv[0]],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
    )
    assert agent.stdin is not None and agent.stdout is not None and agent.stderr is not None
    timer = threading.Timer(task["limit_s"] + GRACE_S, agent.kill)
    timer.start()
    words = Words(agent.stderr)
    try:
        send(agent.stdin, protocol.pack(task))
        return protocol.read_body(agent.stdout.read, protocol.MAX_NOISE)
    except protocol.EndedError:
        return json.dumps({"ended": agent.wait(), "words": words.text()}).encode()
    except protocol.ProtocolError as error:
        return json.dumps({"error": "malformed answer: %s" % error}).encode()
    finally:
        timer.cancel()
        finish(agent)


def damaged(task: Dict[str, Any], store: str) -> Optional[str]:
    """Check a task's files in the store against their digests; return the problem, if any."""
    digests = [os.path.basename(sys.argv[0])] + [task[name] for name in _FILES if task.get(name)]
    for digest in digests:
        if not protocol.is_digest(digest) or not protocol.holds(store, digest):
            return "a file of the board's store was changed in the meantime: %s" % str(digest)[:16]
    return None


def send(stream: IO[bytes], data: bytes) -> None:
    """Write all; who reads the answer finds out why that broke off."""
    try:
        while data:
            data = data[stream.write(data) :]
    except OSError:
        pass


def finish(agent: "subprocess.Popen[bytes]") -> None:
    """Wait until the process is gone, so that the next one has the board to itself."""
    try:
        agent.wait(timeout=GRACE_S)
    except subprocess.TimeoutExpired:
        agent.kill()
        agent.wait()
    for stream in (agent.stdin, agent.stdout, agent.stderr):
        if stream is not None:
            stream.close()


class Words:
    """The last of what a process says on its standard error, read beside it."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self._kept = stream, b""
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            for part in iter(lambda: self._stream.read(_WORDS), b""):
                self._kept = (self._kept + part)[-_WORDS:]
        except (OSError, ValueError):
            pass

    def text(self) -> str:
        """All that is known of it once the process has ended."""
        self._thread.join(timeout=5)
        return self._kept.decode("utf-8", "replace")
