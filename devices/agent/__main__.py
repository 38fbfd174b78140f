"""The agent: reads one task from its standard input, answers it, and ends."""

import os
import signal
import sys
import threading
from importlib import import_module
from typing import Any, Dict, Optional

from . import environment, hold, protocol, series, settings
from .board import Board

MODELS = ("bench", "evaluate", "kernels")
"""Tasks that run models: each is the function of the module of its name."""
_last_word = threading.Lock()
"""Held by whoever ends this process: with an answer, or because the host hung up."""


def main() -> None:
    """Answer one task. What a runtime prints goes to the standard error, not into the answer."""
    out = os.dup(1)
    os.dup2(2, 1)
    try:
        task = protocol.read_frame(protocol.read_stdin)
        _end_with_the_host(task["limit_s"], _store() if task.get("settings") else None)
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            os.environ[name] = str(task.get("threads", 1))
        answer = {"ok": answer_to(task, lambda body: protocol.write(protocol.frame(body), out))}
        _last_word.acquire()
        protocol.send(answer, out)
    except protocol.TaskError as error:
        protocol.send({"error": str(error)}, out)
    except MemoryError:
        protocol.send({"error": "out of memory"}, out)
    except Exception as error:
        text = "%s: %s" % (type(error).__name__, error)
        protocol.send({"error": text}, out)
    # Some runtimes' threads keep an interpreter from ending.
    os._exit(0)


def answer_to(task: Dict[str, Any], say: series.Say) -> Dict[str, Any]:
    """Do what the task says, holding the board where the task has a lease.

    `say` sends what comes before the answer.
    """
    store, lease = _store(), task.get("lease")
    held = hold.take(store, lease) if lease else None
    wanted = task.get("settings") or {}
    if (wanted or settings.left(store)) and (held is not None or hold.holder(store) is None):
        settings.settle(store, wanted)
    if task["task"] in ("look", "install", "release", "remove"):
        return _keep_house(task, store, held)
    try:
        if task["task"] == "series":
            return series.series(task, store, say)
        return _measure(task, store)
    finally:
        if held is not None:
            held.extend()


def _keep_house(task: Dict[str, Any], store: str, held: Optional[hold.Hold]) -> Dict[str, Any]:
    """Do a task that measures nothing: look, install, release or remove everything."""
    if task["task"] == "look":
        return environment.look(store)
    if task["task"] == "remove":
        return environment.remove(store)
    answer = environment.install(task, store) if task["task"] == "install" else {}
    if held is not None:
        held.release()
    return answer


def _measure(task: Dict[str, Any], store: str) -> Dict[str, Any]:
    """Do a task that runs models; numpy is imported by the modules that need it."""
    environment.enter(store)
    # Runtimes keep files of their own (onnxruntime: an identifier of the machine): not at home.
    os.environ["XDG_CACHE_HOME"] = os.path.join(store, "cache")
    if task["task"] == "probe":
        answer = probe(task.get("settable") or {})
        return dict(answer, holder=None if task.get("lease") else hold.holder(store))
    if task["task"] not in MODELS:
        raise protocol.TaskError("unknown task %r" % task["task"])
    work = getattr(import_module("." + task["task"], __package__), task["task"])
    return dict(work(task, store))


def probe(settable: Dict[str, str]) -> Dict[str, Any]:
    """Facts and state of the board, what is installed, and why it would not be set as asked."""
    from .runtimes import installed

    board = Board()
    try:
        import numpy

        version = str(numpy.__version__)
    except ImportError:
        version = ""
    return {
        "facts": board.facts(),
        "state": board.state(),
        "interpreter": sys.executable,
        "numpy": version or None,
        "runtimes": installed(),
        "processors": len(board.choose_cpus(1 << 20)),
        "unsettable": settings.problem(settable, board),
    }


def _store() -> str:
    """The folder that the agent lies in."""
    return os.path.dirname(os.path.abspath(sys.argv[0]))


def _end_with_the_host(limit_s: float, store: Optional[str]) -> None:
    """End this process when its time is up, or when the host hangs up.

    `store` is given where settings are to be put back then.
    """
    if hasattr(signal, "setitimer"):
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, limit_s)

    def watch() -> None:
        while os.read(0, 1):
            pass
        _last_word.acquire()
        try:
            if store is not None:
                settings.settle(store, {})
        finally:
            os._exit(3)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    main()
