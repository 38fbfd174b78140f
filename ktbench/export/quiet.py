"""Keeps the chatter of exporters off the user's terminal, and nothing else."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_LOCK = threading.RLock()
_CHATTY = ("torch.onnx", "torch.export", "torch.fx", "onnxscript", "onnx_ir")


@contextmanager
def quiet() -> Iterator[None]:
    """Silence this thread's warnings and log lines of the exporters while the block runs.

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
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
            root.removeHandler(placeholder)
            root.removeFilter(not_ours)
