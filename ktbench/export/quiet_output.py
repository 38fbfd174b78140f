"""A context manager that keeps the output of exporters, and nothing else, off the terminal."""

from __future__ import annotations

import io
import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

import torch

_LOCK = threading.RLock()
_CHATTY = ("torch.onnx", "torch.export", "torch.fx", "onnxscript", "onnx_ir")


class _Muted(io.TextIOBase):
    """A stream that drops what one thread writes, and passes on what others do."""

    def __init__(self, stream: TextIO, thread: int) -> None:
        self._stream, self._thread = stream, thread

    def write(self, text: str) -> int:
        """See `io.TextIOBase`."""
        if threading.get_ident() == self._thread:
            return len(text)
        return self._stream.write(text)

    def flush(self) -> None:
        """See `io.TextIOBase`."""
        self._stream.flush()

    def isatty(self) -> bool:
        """See `io.TextIOBase`."""
        return self._stream.isatty()

    def fileno(self) -> int:
        """See `io.TextIOBase`."""
        return self._stream.fileno()


@contextmanager
def quiet() -> Iterator[None]:
    """Silence this thread's warnings, prints and exporters' log lines while the block runs.

    Python's warning filters belong to the process, so one thread at a time is inside. Records
    that a library logs straight to the root logger are dropped by a filter that looks at the
    thread; the handler that `logging.warning` would install for good is forestalled.
    """
    with _LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        root = logging.getLogger()
        here = threading.get_ident()
        placeholder = logging.NullHandler()

        def not_ours(record: logging.LogRecord) -> bool:
            return record.thread != here or record.levelno > logging.WARNING

        loggers = [logging.getLogger(name) for name in _CHATTY]
        levels = [logger.level for logger in loggers]
        root.addFilter(not_ours)
        root.addHandler(placeholder)
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        # The older exporter writes a whole graph to the terminal before it raises.
        streams = sys.stdout, sys.stderr
        sys.stdout, sys.stderr = _Muted(streams[0], here), _Muted(streams[1], here)
        # It does so past Python's streams, and turns its own switch on.
        log = torch._C._jit_onnx_log
        torch._C._jit_onnx_log = lambda *_: None
        try:
            yield
        finally:
            sys.stdout, sys.stderr = streams
            torch._C._jit_onnx_log = log
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
            root.removeHandler(placeholder)
            root.removeFilter(not_ours)
