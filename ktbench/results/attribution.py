"""Attribution of failed trainings: the technique's own deed, or a circumstance of the run.

Only what a technique did itself counts against it in a verdict by intention to treat. Its own deed
is a failure of the training with a step: a loss that is no longer finite, logits that are not, or
an exception that its student or its method raised in that step. Circumstances are everything else:
failures of teachers, blocks, exports and devices, processes that were killed or lost, a full disk,
too little memory, wrong arithmetic of the machine. Where a record does not tell, it is a
circumstance: an accusation needs evidence.
"""

from __future__ import annotations

import re
from pathlib import PurePath
from typing import Literal

from ktbench.records import DataSpec, Failure, Result

FailedBy = Literal["", "technique", "circumstance"]

_DIVERGED = re.compile(
    r"\bdiverge|\bnot finite\b|\bnon-finite\b|\bbecame (nan|[-−]?inf)|\bis (nan|[-−]?inf)\b", re.I
)
"""Words of a training that ran away, in records without a step too."""
_CIRCUMSTANCES = re.compile(
    r"MemoryError|out of memory|not enough memory|can(no|')t allocate memory|no space left|"
    r"disk quota|read-only file system|input/output error|errno (5|12|28|30|122)\b|"
    r"\bkilled\b|\bSIG(KILL|TERM|INT|HUP|BUS)\b|unreachable|connection (reset|refused|lost)|"
    r"broken pipe|CUDA error|no such device|device lost|"
    r"first weights, from blocks, are not there|weights that it begins from are not there",
    re.I,
)
"""Words of failures that come from the machine, whichever code met them."""


def is_technique_failure(failure: Failure) -> bool:
    """True where the technique itself ended its training, by the record's stage, step and words."""
    if failure.stage != "train" or failure.what or _CIRCUMSTANCES.search(failure.reason):
        return False
    return failure.step is not None or bool(_DIVERGED.search(failure.reason))


def failed_by(result: Result | None) -> FailedBy:
    """Say who ended a cell's training; empty where it was trained, skipped or has not run."""
    if result is None or result.status != "failed" or result.checkpoint is not None:
        return ""
    own = any(is_technique_failure(failure) for failure in result.failures)
    return "technique" if own else "circumstance"


_CLASSES = {"cifar10": 10, "cifar100": 100, "mnist": 10, "fashion_mnist": 10}
"""Classes of data sets by their public names, for folders that do not tell them."""


def known_classes(data: DataSpec) -> int | None:
    """Number of classes of a data set that is known by its name; None for any other."""
    return 10 if data.source == "digits" else _CLASSES.get(PurePath(data.path or "").name.lower())
